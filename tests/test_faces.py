"""Faces: official and own layouts, who is held out, what is removed, images from files and from a prepared file."""

import errno
import functools
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs import celeba as celeba_config
from configs import faces as faces_config
from mbjax import compare, data, report, train
from mbjax.data.images import host_images
from mbjax.data.people import drawn_faces, protocol
from mbjax.evaluation import identification
from mbjax.report import faces as faces_report
from mbjax.report import plots
from mbjax.train import checkpoint
from mbjax.types import Dataset, UserError

ROOT = Path(__file__).parents[1]
# As in the official file.
HEADER = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
)
MALE = HEADER.split().index("Male")


@pytest.fixture(autouse=True)
def data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MBJAX_DATA_DIR", str(tmp_path))
    return tmp_path


def write_image(path: Path, number: int, size: tuple[int, int] = (178, 218)) -> None:
    """An image of one colour, which `numbers` reads again after JPEG's losses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (8 * (number % 32), 8 * (number // 32), 100)).save(path)


def numbers(x: Any) -> np.ndarray:
    colours = np.rint(np.asarray(x[np.arange(len(x))])[:, 4, 4] / 8).astype(int)
    return colours[:, 0] + 32 * colours[:, 1]


def write_celeba(folder: Path, people: np.ndarray, male: np.ndarray, end: str = "\n") -> Path:
    """CelebA's files for images of `people` (the official numbers), `male` of each image."""
    images = [f"{number:06}.jpg" for number in range(1, len(people) + 1)]
    for number, name in enumerate(images):
        write_image(folder / "img_align_celeba" / name, number)
    values = np.where(np.random.default_rng(0).random((len(people), 40)) < 0.5, 1, -1)
    values[:, MALE] = np.where(male, 1, -1)
    rows = [f"{name} " + " ".join(f"{value:2}" for value in row) for name, row in zip(images, values, strict=True)]
    texts = {
        "list_attr_celeba.txt": [str(len(images)), HEADER + " ", *rows],
        "identity_CelebA.txt": [f"{name} {person}" for name, person in zip(images, people, strict=True)],
        "list_eval_partition.txt": [f"{name} {number % 3}" for number, name in enumerate(images)],
    }
    for name, lines in texts.items():
        (folder / name).write_bytes("".join(line + end for line in lines).encode())
    return folder


# 24 people of 6 images, the even ones women, in a mixed order: image i is of PEOPLE[i].
PEOPLE = np.random.default_rng(1).permutation(np.repeat(np.arange(100, 124) * 7, 6))
OPTIONS: dict[str, Any] = {"size": 8, "test_identities": 8, "removed_share": 0.5}


def load_celeba(seed: int = 0, **options: Any) -> Dataset:
    return data.load("celeba", seed=seed, **{**OPTIONS, **options})


@functools.cache
def template(where: str) -> dict[str, bytes]:
    """The bytes of the small CelebA, written once."""
    folder = write_celeba(Path(where), PEOPLE, PEOPLE % 2 == 1)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = template(str(tmp_path_factory.getbasetemp() / "template"))
    for name, content in files.items():
        (tmp_path / "celeba" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "celeba" / name).write_bytes(content)
    return tmp_path / "celeba"


def corrupt(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


class TestCelebA:
    def test_labels_groups_and_pixels_follow_the_files(self, folder):
        dataset = load_celeba()
        assert (dataset.kind, dataset.groups, dataset.source) == ("identification", ("female", "male"), "CelebA")
        train = numbers(dataset.train.x)
        assert dataset.train.x.shape[1:] == (8, 8, 3)
        assert (dataset.train.x.dtype, dataset.train.y.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(np.array(dataset.classes, int)[dataset.train.y], PEOPLE[train])
        for split in dataset.splits.values():
            assert split.group is not None
            np.testing.assert_array_equal(split.group, PEOPLE[numbers(split.x)] % 2)
            assert np.unique(split.y).tolist() == list(range(split.y.max() + 1))
        tested = PEOPLE[numbers(dataset.test.x)]
        np.testing.assert_array_equal(np.unique(tested)[dataset.test.y], tested)
        assert (len(dataset.classes), len(dataset.test)) == (16, 48)  # who is tested keeps all images
        men = int((PEOPLE[train] % 2 == 1).sum())
        women = np.unique(PEOPLE[train][PEOPLE[train] % 2 == 0]).size
        removed = f"{3 * women} of the {6 * women} training images of group 'female' removed (50.0%; at least "
        kept = f"2 of each identity stay): female {3 * women} images of {women}, male {men} images of {men // 6}"
        assert dataset.notes[-1] == removed + kept
        assert data.describe(dataset)["group_counts"]["train"] == [3 * women, men]

    def test_windows_line_ends_and_published_folders(self, tmp_path, folder):
        plain = load_celeba()
        other = write_celeba(tmp_path / "other", PEOPLE, PEOPLE % 2 == 1, end="\r\n")
        for name, place in (("img_align_celeba", "Img"), ("identity_CelebA.txt", "Anno"),
                            ("list_attr_celeba.txt", "Anno"), ("list_eval_partition.txt", "Eval")):  # fmt: skip
            (other / place).mkdir(exist_ok=True)
            (other / name).rename(other / place / name)
        windows = load_celeba(dir=str(other))
        assert windows.classes == plain.classes
        np.testing.assert_array_equal(windows.train.x, plain.train.x)
        np.testing.assert_array_equal(windows.test.y, plain.test.y)

    def test_another_attribute_and_the_majority(self, tmp_path):
        people = np.repeat(np.arange(10), 5)
        male = people % 2 == 1
        male[[0, 6, 7]] ^= True  # one image of person 0, two of person 1
        write_celeba(tmp_path, people, male)
        dataset = load_celeba(test_identities=4, removed_share=0.0)
        for split in dataset.splits.values():
            np.testing.assert_array_equal(split.group, people[numbers(split.x)] % 2)
        assert dataset.notes[0].startswith("2 identities have images with and without 'Male': they count by the major")
        assert dataset.notes[0].endswith("3 images differ from it")
        young = load_celeba(test_identities=4, removed_share=0.0, group="Young", scarce_group="Young")
        assert young.groups == ("not Young", "Young")
        with pytest.raises(UserError, match=r"config\.data\.group='Old': list_attr_celeba\.txt has no such attribute"):
            load_celeba(group="Old")

    @pytest.mark.parametrize(
        ("file", "old", "new", "message"),
        [
            ("list_attr_celeba.txt", b"144\n", b"145\n", r"announces 145 images and has 144: it is cut off"),
            ("list_attr_celeba.txt", b"144\n", b"", r"does not begin with the number of images and the attributes'"),
            ("list_attr_celeba.txt", b"\n000002.jpg ", b"\n000002.jpg 1 ", r"txt line 4 is '000002\.jpg 1 .*40 values"),
            ("list_attr_celeba.txt", b"\n000002.jpg ", b"\n000001.jpg ", r"line 4 names the image 000001\.jpg a secon"),
            ("list_attr_celeba.txt", b"\n000002.jpg ", b"\n000999.jpg ",
             r"identity_CelebA\.txt names the image 000002\.jpg and list_attr_celeba\.txt does not \(144 and 144 ima"),
            ("identity_CelebA.txt", b"000144.jpg", b"000145.jpg",
             r"list_attr_celeba\.txt names the image 000144\.jpg and identity_CelebA\.txt does not"),
            ("identity_CelebA.txt", b"000003.jpg ", b"000003.jpg x", r"identity_CelebA\.txt line 3 is '000003\.jpg x"),
            ("list_eval_partition.txt", b"000001.jpg 0\n", b"",
             r"identity_CelebA\.txt names the image 000001\.jpg and list_eval_partition\.txt does not \(143 and 144"),
        ],
    )  # fmt: skip
    def test_annotations_that_are_not_official(self, folder, file, old, new, message):
        content = (folder / file).read_bytes()
        assert content.count(old) == 1
        (folder / file).write_bytes(content.replace(old, new))
        with pytest.raises(UserError, match=message) as raised:
            load_celeba()
        assert "\n" not in str(raised.value)

    def test_images_and_annotations_disagree(self, folder):
        images = folder / "img_align_celeba"
        (images / "000005.jpg").unlink()
        dataset = load_celeba(removed_share=0.0)  # 1 of 144
        assert dataset.notes[0] == "1 of 144 annotated images are missing: 000005.jpg; left out"
        assert len(dataset.train) + len(dataset.test) == 143
        (images / "000144.jpg").unlink()
        with pytest.raises(
            UserError, match=r"img_align_celeba: 2 of 144 annotated images are missing: 000005\.jpg, 000144\.jpg; more "
        ):
            load_celeba()
        assert len(load_celeba(removed_share=0.0, max_bad_share=0.02).train) <= 96
        write_image(images / "000005.jpg", 4)
        write_image(images / "000144.jpg", 143)
        for extra in range(2):
            write_image(images / f"9{extra}.jpg", 0)
        with pytest.raises(
            UserError, match=r"2 of 146 images have no annotation: 90\.jpg, 91\.jpg; more than config\."
        ):
            load_celeba()
        for image in images.iterdir():
            image.unlink()
        with pytest.raises(UserError, match=r"144 of 144 annotated images are missing: 000001\.jpg, .*, …; more than"):
            load_celeba(max_bad_share=1.0)

    def test_missing_files(self, tmp_path, folder):
        (folder / "identity_CelebA.txt").unlink()
        with pytest.raises(UserError, match=r"celeba has no identity_CelebA\.txt: get it from https://mmlab"):
            load_celeba()
        with pytest.raises(
            UserError, match=r"no img_align_celeba in .*none/celeba or .*none: get img_align_celeba \(u"
        ):
            load_celeba(dir=str(tmp_path / "none"))


class TestProtocol:
    def test_held_out_by_seed_and_at_least_two_stay(self, folder):
        drawn = []
        for seed in range(8):
            dataset = load_celeba(seed, removed_share=0.9, in_memory_bytes=2**20)
            train, test = (PEOPLE[numbers(split.x)] for split in (dataset.train, dataset.test))
            assert not set(train) & set(test)
            assert len(set(test)) == 8
            people, counts = np.unique(train, return_counts=True)
            # 90% of 6 images of each woman cannot go: the floor binds.
            np.testing.assert_array_equal(counts, np.where(people % 2 == 0, 2, 6))
            drawn.append(frozenset(test.tolist()))
        assert len(set(drawn)) > 1
        again = load_celeba(0, removed_share=0.9)
        np.testing.assert_array_equal(again.train.x, load_celeba(0, removed_share=0.9).train.x)
        # Who is held out does not depend on what is removed.
        other = load_celeba(0, removed_share=0.1, scarce_group="male")
        np.testing.assert_array_equal(other.test.x, again.test.x)

    @pytest.mark.parametrize("on_host", [False, True])
    def test_validation_people_are_neither_trained_on_nor_tested(self, folder, on_host):
        for seed in range(3):
            plain = load_celeba(seed, removed_share=0.0, on_host=on_host)
            dataset = load_celeba(seed, removed_share=0.0, on_host=on_host, validation_identities=5)
            assert list(dataset.splits) == ["train", "validation", "test"]
            np.testing.assert_array_equal(dataset.test.x[:], plain.test.x[:])  # the same people as without
            np.testing.assert_array_equal(dataset.test.y, plain.test.y)
            people = {name: PEOPLE[numbers(split.x)] for name, split in dataset.splits.items()}
            assert {name: len(np.unique(part)) for name, part in people.items()} == {
                "train": 11, "validation": 5, "test": 8
            }  # fmt: skip
            assert len(np.unique(np.concatenate([np.unique(part) for part in people.values()]))) == 24
            validation = dataset.splits["validation"]
            assert len(validation) == 5 * 6  # they keep all images
            np.testing.assert_array_equal(np.unique(people["validation"])[validation.y], people["validation"])
            np.testing.assert_array_equal(validation.group, people["validation"] % 2)
            assert dataset.notes[-2].startswith("5 identities held out for validation (female ")
            assert (
                f"), 8 identities held out for test ({plain.notes[-2].split('(')[1].split(')')[0]})"
                in (dataset.notes[-2])
            )

    @staticmethod
    def listed(counts: Sequence[int]) -> protocol.Listed:
        """The people have so many images each; even numbers are in group 0."""
        identity = np.repeat(np.arange(len(counts)), counts)
        files = [Path(f"{number}.jpg") for number in range(len(identity))]
        names = [str(number) for number in range(len(counts))]
        return protocol.Listed(files, identity, names, np.arange(len(counts)) % 2, ("x", "y"), "made up")

    @pytest.mark.parametrize("seed", range(5))
    def test_removed_share_is_exact_where_the_floor_does_not_bind(self, seed):
        listed = self.listed([40, 10, 70, 10, 30, 10])  # 140 images of group 0
        rows = np.arange(len(listed.identity))
        kept = protocol._thin(rows, listed, 0, share=0.85, min_images=2, seed=seed)
        counts = np.bincount(listed.identity[kept])
        assert counts[[1, 3, 5]].tolist() == [10, 10, 10]
        assert counts[[0, 2, 4]].sum() == 21
        assert counts.min() >= 2
        assert not np.array_equal(kept, protocol._thin(rows, listed, 0, share=0.85, min_images=2, seed=seed + 1))

    def test_removed_share_is_bound_by_the_floor(self):
        listed = self.listed([40, 10, 3, 10, 2, 10, 1])
        kept = protocol._thin(np.arange(len(listed.identity)), listed, 0, share=0.9, min_images=3, seed=0)
        # 41.4 of 46 images should go, but 3 + 3 + 2 + 1 stay.
        assert np.bincount(listed.identity[kept]).tolist() == [3, 10, 3, 10, 2, 10, 1]

    def test_removal_favours_nobody(self):
        listed = self.listed([10, 5, 90, 5])
        left = np.zeros(4)
        for seed in range(200):
            kept = protocol._thin(np.arange(110), listed, 0, share=0.5, min_images=2, seed=seed)
            left += np.bincount(listed.identity[kept])
        # Of 96 images that may go 50 do: those of either person go in this proportion.
        np.testing.assert_allclose(left[[0, 2]] / 200, [2 + 8 * 46 / 96, 2 + 88 * 46 / 96], rtol=0.03)

    def test_few_images_and_a_cap(self, tmp_path):
        people = np.repeat(np.arange(12), [6] * 9 + [1, 1, 1])
        write_celeba(tmp_path, people, people % 2 == 1)
        alone = 0
        for seed in range(4):
            dataset = load_celeba(seed, test_identities=4, removed_share=0.0)
            counts = np.bincount(dataset.test.y)
            assert dataset.class_counts.min() >= 2
            assert len(dataset.classes) + (counts > 1).sum() == 9  # who has one image is tested or left out
            alone += int((counts == 1).sum())
            if len(dataset.classes) < 8:
                assert dataset.notes[-1].startswith(f"{8 - len(dataset.classes)} identities are in no part")
            capped = load_celeba(seed, test_identities=4, removed_share=0.0, identities=4)
            assert len(capped.classes) == 4
            assert set(capped.classes) <= set(dataset.classes)
            np.testing.assert_array_equal(capped.test.x, dataset.test.x)
        assert alone > 0

    def test_values_out_of_range(self, folder):
        cases: list[tuple[dict[str, Any], str]] = [
            (
                {"test_identities": 23},
                r"config\.data\.test_identities=23: CelebA has 24 identities, and at least 2 must",
            ),
            ({"test_identities": 0}, r"config\.data\.test_identities=0: at least 1 is needed"),
            (
                {"validation_identities": 15},
                r"test_identities=8, config\.data\.validation_identities=15: CelebA has 24 identities, and at least",
            ),
            ({"validation_identities": -1}, r"config\.data\.validation_identities=-1: at least 0 is needed"),
            ({"min_images": 0}, r"config\.data\.min_images=0: at least 1 is needed"),
            ({"size": 0}, r"config\.data\.size=0: at least 1 is needed"),
            ({"removed_share": 1.0}, r"config\.data\.removed_share=1\.0: a number from 0 to below 1 is needed"),
            ({"max_bad_share": -1.0}, r"config\.data\.max_bad_share=-1\.0: a number from 0 to 1 is needed"),
            ({"identities": 1}, r"config\.data\.identities=1: at least 2 are needed to train on, or None for all"),
            ({"identities": 17}, r"config\.data\.identities=17: 16 identities with at least 2 images are left beside"),
            ({"scarce_group": "men"}, r"config\.data\.scarce_group='men': choose one of female, male"),
        ]
        for options, message in cases:
            with pytest.raises(UserError, match=message):
                load_celeba(**options)

    def test_a_group_that_is_empty(self, tmp_path):
        people = np.repeat(np.arange(8), 3)
        write_celeba(tmp_path, people, np.zeros(len(people), bool))
        with pytest.raises(
            UserError, match=r"CelebA: group 'male' has no train image \(female \d+, male 0\): change -"
        ):
            load_celeba(test_identities=2)
        write_celeba(tmp_path, people, people == 7)
        with pytest.raises(UserError, match=r"CelebA: group 'male' has no (train|test) image"):
            load_celeba(test_identities=2)


def write_faces(root: Path, images: int = 4, people: int = 10) -> Path:
    for number in range(people * images):
        write_image(root / f"p{number // images}" / f"{number % images}.png", number, (12, 8))
    lines = [f"p{person},{'ab'[person % 2]}" for person in range(people)]
    (root / "groups.csv").write_text("\n".join(["identity,group", *lines]) + "\n")
    return root


def load_faces(path: Path | str, seed: int = 0, **options: Any) -> Dataset:
    return data.load("faces", seed=seed, path=str(path), **{"size": 8, "test_identities": 4, **options})


class TestFolder:
    def test_labels(self, tmp_path):
        write_faces(tmp_path / "own")
        (tmp_path / "own" / ".cache").mkdir()
        (tmp_path / "own" / "p1" / "notes.txt").write_text("no image")
        dataset = load_faces("own", removed_share=0.0)
        assert dataset.groups == ("a", "b")
        train = numbers(dataset.train.x) // 4
        np.testing.assert_array_equal(np.array(dataset.classes)[dataset.train.y], [f"p{person}" for person in train])
        np.testing.assert_array_equal(dataset.train.group, train % 2)
        assert dataset.source == "own"

    def test_errors(self, tmp_path):
        with pytest.raises(UserError, match=r"config\.data\.path: name a folder of one folder an identity \(or draw"):
            load_faces("")
        with pytest.raises(UserError, match=r"config\.data\.path='own': there is neither /.*/own nor /.*/own"):
            load_faces("own")
        root = write_faces(tmp_path / "own")
        table = root / "groups.csv"
        rows = table.read_text()
        for text, message in (
            (rows + "ghost,a\n", r"groups\.csv names the identity 'ghost', but there is no folder .*/own/ghost"),
            (rows.replace("p3,b\n", ""), r"groups\.csv has no row for the folder 'p3': add its group, or move it away"),
            (rows + "p3,a\n", r"groups\.csv names the identity 'p3' more than once: keep one row"),
            (rows.replace("p3,b", "p3,"), r"groups\.csv has no group for the identity 'p3': add it"),
            (rows.replace("group", "gender"), r"has the columns 'identity', 'gender': identity and group are needed"),
            ("", r"groups\.csv cannot be read as CSV \(No columns to parse from file\)"),
            (rows.replace(",b", ",a"), r"own has only the group 'a': two are needed"),
        ):
            table.write_text(text)
            with pytest.raises(UserError, match=message) as raised:
                load_faces(root)
            assert "\n" not in str(raised.value)
        table.unlink()
        with pytest.raises(
            UserError, match=r"there is no .*groups\.csv: write one line identity,group and below it on"
        ):
            load_faces(root)
        table.write_text(rows + "empty,a\n")
        (root / "empty").mkdir()
        with pytest.raises(
            UserError, match=r"identity 'empty' has no images: .*/empty holds no \.bmp .*; add some, or"
        ):
            load_faces(root)

    def test_damaged_images_are_named_counted_and_left_out(self, tmp_path, caplog):
        root = write_faces(tmp_path / "own", images=5)
        (root / "p2" / "1.png").write_bytes(b"")
        with pytest.raises(
            UserError, match=r"1 of 50 images cannot be read, more than config\.data\.max_bad_share=0\.01 allows: .*"
            r"p2/1\.png \(UnidentifiedImageError\): repair or replace them, or raise --config\.data\.max_bad_share",
        ):  # fmt: skip
            load_faces(root)
        with caplog.at_level(logging.WARNING, logger="mbjax"):
            dataset = load_faces(root, max_bad_share=0.05, removed_share=0.0)
        assert dataset.notes[0] == "1 images that cannot be read are left out: p2/1.png"
        assert dataset.notes[0] in caplog.text
        read = np.concatenate([numbers(split.x) for split in dataset.splits.values()])
        assert sorted(read.tolist()) == [number for number in range(50) if number != 11]


class TestImageFiles:
    @staticmethod
    def files(folder: Path, count: int = 40) -> list[Path]:
        files = [folder / f"{number}.png" for number in range(count)]
        for number, file in enumerate(files):
            write_image(file, number, (10, 8))
        return files

    def test_order_and_shape(self, tmp_path):
        files = self.files(tmp_path)
        x = host_images.ImageFiles(files, size=8)
        assert (x.shape, x.dtype, len(x)) == ((40, 8, 8, 3), np.uint8, 40)
        rows = np.random.default_rng(0).integers(0, 40, (3, 2, 5))
        read = x[rows]
        assert (read.shape, read.dtype) == ((3, 2, 5, 8, 8, 3), np.uint8)
        np.testing.assert_array_equal(numbers(read.reshape(-1, 8, 8, 3)), rows.ravel())
        np.testing.assert_array_equal(numbers(x[5:30:7]), [5, 12, 19, 26])
        assert x[np.zeros((0, 4), np.int32)].shape == (0, 4, 8, 8, 3)
        with pytest.raises(IndexError):
            x[np.array([40])]
        thinned = host_images.Rows(x, np.array([9, 3, 7]))
        assert thinned.shape == (3, 8, 8, 3)
        np.testing.assert_array_equal(numbers(thinned[np.array([[2, 0]])][0]), [7, 9])

    def test_several_threads_at_once(self, tmp_path):
        files = self.files(tmp_path)
        host_images.prepare(files, tmp_path / "all.npy", size=8, max_bad_share=0.0)
        prepared = host_images.PreparedImages(tmp_path / "all.npy", digest=host_images.digest(files, size=8))
        for x in (host_images.ImageFiles(files, size=8, threads=2), prepared):
            rows = np.random.default_rng(0).integers(0, 40, (16, 30))
            with ThreadPoolExecutor(8) as pool:
                for asked, read in zip(rows, pool.map(x.__getitem__, rows), strict=True):
                    np.testing.assert_array_equal(numbers(read), asked)

    def test_a_repeated_row_is_decoded_once(self, tmp_path, monkeypatch):
        read = []
        decode = host_images.images.decode_one
        monkeypatch.setattr(
            host_images.images, "decode_one", lambda file, size: (read.append(file.name), decode(file, size))[1]
        )
        x = host_images.ImageFiles(self.files(tmp_path), size=8)
        assert numbers(x[np.array([3, 5, 3, 3])]).tolist() == [3, 5, 3, 3]
        assert sorted(read) == ["3.png", "5.png"]

    def test_the_digest_names_files_and_size(self, tmp_path):
        files = self.files(tmp_path, 3)
        seen = {host_images.ImageFiles(part, size=size).digest for part in (files, files[:2]) for size in (8, 9)}
        assert host_images.ImageFiles(files, size=8).digest in seen
        files[0].write_bytes(files[0].read_bytes() + b"more")
        seen |= {host_images.ImageFiles(files, size=8).digest}
        seen |= {host_images.Rows(host_images.ImageFiles(files, size=8), np.array(rows)).digest for rows in ([0], [1])}
        assert len(seen) == 7
        files[1].unlink()
        with pytest.raises(UserError, match=r"1\.png cannot be read \(No such file or directory\): restore it"):
            host_images.ImageFiles(files, size=8)

    def test_another_image_of_the_identity_stands_in(self, tmp_path, caplog):
        files = self.files(tmp_path)
        identity = np.arange(40) // 2 % 10  # 0 and 1, 20 and 21 are of person 0
        for number in (1, 20, 38):
            corrupt(files[number])
        x = host_images.ImageFiles(files, size=8, identity=identity, max_bad_share=0.075)
        with caplog.at_level(logging.WARNING, logger="mbjax"):
            for _ in range(2):
                np.testing.assert_array_equal(numbers(x[np.array([0, 1, 20, 38])]), [0, 21, 21, 39])
        assert len(caplog.messages) == 3  # each is named once
        assert caplog.messages[0].endswith("another of its identity stands in, so far for 1 of 40")
        assert "/1.png is no readable image (" in caplog.messages[0]
        strict = host_images.ImageFiles(files, size=8, identity=identity, max_bad_share=0.06)
        strict[np.array([1])]
        with pytest.raises(
            UserError, match=r"3 of 40 images cannot be read, more than config\.data\.max_bad_share=0\.06"
        ):
            strict[np.array([0, 20, 38])]
        alone = host_images.ImageFiles(files, size=8, max_bad_share=1.0)
        with pytest.raises(UserError, match=r"1\.png is no readable image \(.*\), and its identity has no other that"):
            alone[np.array([1])]

    def test_on_host_equals_in_memory(self, folder):
        memory, host = load_celeba(), load_celeba(on_host=True)
        small = load_celeba(in_memory_bytes=1000)
        for part in ("train", "test"):
            assert isinstance(memory.splits[part].x, np.ndarray)
            for other in (host, small):
                x = other.splits[part].x
                assert isinstance(x, host_images.ImageFiles)
                np.testing.assert_array_equal(x[:], memory.splits[part].x)
                np.testing.assert_array_equal(other.splits[part].y, memory.splits[part].y)

    def test_corrupt_jpegs_of_files_read_in_place(self, folder):
        dataset = load_celeba(on_host=True, removed_share=0.0)
        train, test = numbers(dataset.train.x), numbers(dataset.test.x)
        name = f"{test[3] + 1:06}.jpg"
        corrupt(folder / "img_align_celeba" / name)  # of 48 test images: found while loading
        with pytest.raises(UserError, match=rf"1 of 48 images cannot be read.*{name} \(\w+\): repair or replace them"):
            load_celeba(on_host=True, removed_share=0.0)
        again = load_celeba(on_host=True, removed_share=0.0, max_bad_share=0.03)
        assert numbers(again.test.x).tolist() == [number for number in test if number != test[3]]
        assert again.notes[0] == f"1 images that cannot be read are left out: img_align_celeba/{name}"
        corrupt(folder / "img_align_celeba" / f"{train[0] + 1:06}.jpg")  # found while training
        again = load_celeba(on_host=True, removed_share=0.0, max_bad_share=0.03)
        stand_in = numbers(again.train.x)[0]
        assert stand_in != train[0]
        assert PEOPLE[stand_in] == PEOPLE[train[0]]


class TestPrepared:
    def test_written_once_and_read_again_without_decoding(self, folder, tmp_path, monkeypatch):
        plain = load_celeba()
        path = tmp_path / "new" / "prepared.npy"
        options: dict[str, Any] = {"prepared": str(path), "on_host": True}
        load_celeba(**options)
        assert sorted(file.name for file in path.parent.iterdir()) == ["prepared.json", "prepared.npy"]
        assert np.load(path).shape == (144, 8, 8, 3)
        monkeypatch.setattr(host_images.images, "decode_one", lambda file, size: pytest.fail("decoded again"))
        for seed in (0, 1):  # one file serves every draw
            dataset = load_celeba(seed, **options)
            assert isinstance(dataset.train.x, host_images.Rows)
            assert dataset.train.x[np.zeros((2, 3), int)].shape == (2, 3, 8, 8, 3)
            np.testing.assert_array_equal(
                np.array(dataset.classes, int)[dataset.train.y], PEOPLE[numbers(dataset.train.x)]
            )
        for part in ("train", "test"):
            np.testing.assert_array_equal(load_celeba(**options).splits[part].x[:], plain.splits[part].x)
            np.testing.assert_array_equal(load_celeba(prepared=str(path)).splits[part].x, plain.splits[part].x)
        assert isinstance(load_celeba(prepared=str(path.with_suffix(""))).train.x, np.ndarray)

    def test_what_is_read_is_a_copy(self, folder, tmp_path):
        dataset = load_celeba(prepared=str(tmp_path / "p.npy"), on_host=True)
        read = dataset.train.x[0:2]
        read[:] = 0
        assert dataset.train.x[0:2].any()

    def test_stale_or_damaged_files_are_refused(self, folder, tmp_path):
        path = tmp_path / "p.npy"
        load_celeba(prepared=str(path))
        with pytest.raises(UserError, match=r"p\.npy was prepared from other images, or in another size: delete it to"):
            load_celeba(prepared=str(path), size=9)
        file = folder / "img_align_celeba" / "000007.jpg"
        file.write_bytes(file.read_bytes() + b"\0")
        with pytest.raises(UserError, match=r"p\.npy was prepared from other images, or in another size"):
            load_celeba(prepared=str(path))
        file.write_bytes(file.read_bytes()[:-1])
        load_celeba(prepared=str(path))
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(
            UserError, match=r"p\.npy cannot be read as prepared images \(.*\): delete it to have it ma"
        ):
            load_celeba(prepared=str(path))
        path.with_suffix(".json").unlink()
        with pytest.raises(
            UserError, match=r"p\.npy cannot be read as prepared images \(.*No such file.*\): delete it"
        ):
            load_celeba(prepared=str(path))
        path.unlink()
        load_celeba(prepared=str(path))

    def test_a_full_disk_leaves_nothing(self, folder, tmp_path, monkeypatch):
        path, write, written = tmp_path / "room" / "p.npy", host_images._write, []

        def full(stream, x):
            if written:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(write(stream, x))

        monkeypatch.setattr(host_images, "_CHUNK", 50)
        monkeypatch.setattr(host_images, "_write", full)
        with pytest.raises(
            UserError,
            match=r"p\.npy cannot be written \(No space left on device\): it takes 27,648 bytes, [\d,]+ are fr",
        ) as raised:
            load_celeba(prepared=str(path))
        assert "\n" not in str(raised.value)
        assert written
        assert list(path.parent.iterdir()) == []
        monkeypatch.setattr(host_images, "_write", write)
        np.testing.assert_array_equal(load_celeba(prepared=str(path)).train.x, load_celeba().train.x)

    def test_an_interrupt_leaves_nothing(self, folder, tmp_path, monkeypatch):
        def interrupt(stream, x):
            raise KeyboardInterrupt

        monkeypatch.setattr(host_images, "_write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_celeba(prepared=str(tmp_path / "room" / "p.npy"))
        assert list((tmp_path / "room").iterdir()) == []

    def test_corrupt_jpegs(self, folder, tmp_path):
        images, path = folder / "img_align_celeba", tmp_path / "room" / "p.npy"
        corrupt(images / "000010.jpg")
        dataset = load_celeba(prepared=str(path), on_host=True, removed_share=0.0)  # 1 of 144
        assert json.loads(path.with_suffix(".json").read_text())["bad"] == [9]
        assert dataset.notes[0] == "1 images that cannot be read are left out: img_align_celeba/000010.jpg"
        read = np.concatenate([numbers(split.x) for split in dataset.splits.values()])
        assert sorted(read.tolist()) == [number for number in range(144) if number != 9]
        corrupt(images / "000011.jpg")
        for file in path.parent.iterdir():
            file.unlink()
        with pytest.raises(UserError, match=r"2 of 144 images cannot be read.*000010\.jpg \(\w+\), .*000011\.jpg \("):
            load_celeba(prepared=str(path))
        assert list(path.parent.iterdir()) == []


class TestSynthetic:
    OPTIONS: dict[str, Any] = {  # noqa: RUF012
        "synthetic": True, "synthetic_identities": 12, "synthetic_images": 6, "test_identities": 4, "size": 16
    }  # fmt: skip

    def test_layout_reuse_and_seeds(self, tmp_path, monkeypatch):
        first = data.load("faces", seed=0, **self.OPTIONS)
        (root,) = tmp_path.iterdir()
        assert root.name.startswith("synthetic_faces-")
        assert [place.name for place in sorted(root.iterdir())] == [*(f"{n:05}" for n in range(12)), "groups.csv"]
        assert (root / "groups.csv").read_text().startswith("identity,group\n00000,a\n00001,b\n00002,a\n")
        assert [file.name for file in sorted((root / "00003").iterdir())] == [f"{n:03}.png" for n in range(6)]
        assert (first.groups, first.source) == (("a", "b"), "12 synthetic identities")
        monkeypatch.setattr(drawn_faces, "draw_set", lambda *_, **__: pytest.fail("drawn again"))
        other = data.load("faces", seed=1, **self.OPTIONS)
        assert other.classes != first.classes
        np.testing.assert_array_equal(data.load("faces", seed=0, **self.OPTIONS).train.x, first.train.x)

    def test_drawing_is_deterministic(self, tmp_path):
        drawn = {}
        for name, seed, identities in (("one", 0, 4), ("two", 0, 6), ("three", 1, 4)):
            (tmp_path / name).mkdir()
            drawn_faces.draw_set(tmp_path / name, seed=seed, identities=identities, images=2, size=16)
            files = [tmp_path / name / f"{person:05}" / f"{image:03}.png" for person in range(4) for image in range(2)]
            drawn[name] = host_images.decode(files, size=16).x
        np.testing.assert_array_equal(drawn["one"], drawn["two"])
        assert all((a != b).any() for a, b in zip(drawn["one"], drawn["three"], strict=True))
        assert len(np.unique(drawn["one"].reshape(8, -1), axis=0)) == 8

    def test_raw_pixels_tell_some_people_but_not_most(self):
        def images(number: int) -> list[np.ndarray]:
            person = drawn_faces.draw_person(np.random.default_rng([0, number]), number % 2)
            rngs = [np.random.default_rng([0, number, image]) for image in range(10)]
            return [drawn_faces.draw_image(person, rng, size=32) for rng in rngs]

        x = np.array([images(number) for number in range(40)], np.float32).reshape(400, -1)
        distance = (x**2).sum(1)[:, None] + (x**2).sum(1)[None] - 2 * x @ x.T
        np.fill_diagonal(distance, np.inf)
        rank1 = (distance.argmin(1) // 10 == np.arange(400) // 10).mean()
        assert 0.3 < rank1 < 0.7

    def test_nothing_half_drawn_is_left(self, tmp_path, monkeypatch):
        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(drawn_faces, "draw_image", full)
        with pytest.raises(
            UserError, match=r"synthetic_faces-\w+ cannot be written \(No space left on device\): name an"
        ):
            data.load("faces", seed=0, **self.OPTIONS)
        assert list(tmp_path.iterdir()) == []

    def test_errors(self):
        with pytest.raises(UserError, match=r"config\.data\.synthetic_images=1: at least 2 are needed for synthetic"):
            data.load("faces", seed=0, synthetic=True, synthetic_images=1)


def test_configs_name_the_options_of_the_loaders(folder):
    config: Any = celeba_config.get_config()
    assert config.task == "celeba"
    config.data.update(OPTIONS)
    assert len(data.load("celeba", seed=0, **config.data).test) == 48
    config = faces_config.get_config("synthetic")
    assert (config.task, config.data.synthetic) == ("faces", True)
    config.data.update({**TestSynthetic.OPTIONS, "validation_identities": 0})
    assert len(data.load("faces", seed=0, **config.data).test) == 24
    config = faces_config.get_config()
    config.data.update(path=str(write_faces(folder.parent / "own")), test_identities=4)
    assert len(data.load("faces", seed=0, **config.data).test) == 16
    with pytest.raises(UserError, match=r"configs/faces\.py:drawn: .*folder, synthetic"):
        faces_config.get_config("drawn")


class TestRuns:
    """From official files to scores."""

    def config(self, folder: Path, row: str = "metabalance", **overrides: Any) -> Any:
        config = celeba_config.get_config(row)
        config.data.update(dir=str(folder), **{**OPTIONS, "size": 16}, on_host=True)
        config.model.update(width=2, stages=(1,), embedding=8)
        config.train.batch_size = config.support.batch_size = config.query.batch_size = 8
        config.meta.steps, config.updates, config.updates_per_call = 2, 6, 2
        config.eval.update(every=3, batch_size=16)
        config.update_from_flattened_dict(overrides)
        return config

    @pytest.mark.parametrize("row", ["metabalance", "naive", "over"])
    def test_celeba_is_trained_on_and_people_are_identified(self, folder, tmp_path, row):
        result = train.train_and_evaluate(self.config(folder, row), tmp_path / "run")
        assert result["data"]["groups"] == ["female", "male"]
        test = result["test"]
        assert test["probes"] == dict(zip(("female", "male"), result["data"]["group_counts"]["test"], strict=True))
        with np.load(tmp_path / "run/predictions.npz") as saved:
            embeddings, labels, groups = (saved[name] for name in ("embeddings", "labels", "groups"))
        np.testing.assert_allclose((embeddings**2).sum(1), 1, rtol=1e-5)
        correct, _ = identification.rank1(embeddings, labels)
        assert test["rank1_accuracy_female"] == pytest.approx(correct[groups == 0].mean())
        assert test["rank1_accuracy_male"] == pytest.approx(correct[groups == 1].mean())

    def test_validation_people_are_scored_like_those_of_the_test(self, folder, tmp_path):
        plain = train.train_and_evaluate(self.config(folder, "over"), tmp_path / "plain")
        assert "validation" not in plain
        result = train.train_and_evaluate(
            self.config(folder, "over", **{"data.validation_identities": 5}), tmp_path / "run"
        )
        assert set(result["validation"]) == set(result["test"]) == set(plain["test"])
        assert sum(result["validation"]["probes"].values()) == 5 * 6
        assert result["test"]["probes"] == plain["test"]["probes"]
        with np.load(tmp_path / "run/predictions.npz") as saved:  # of the test people
            correct, _ = identification.rank1(saved["embeddings"], saved["labels"])
        assert result["test"]["rank1_accuracy"] == pytest.approx(correct.mean())

    def test_images_read_on_the_host_and_those_in_memory_train_alike(self, folder, tmp_path):
        host, memory = (
            train.train_and_evaluate(self.config(folder, "over", **{"data.on_host": value}), tmp_path / str(value))
            for value in (True, False)
        )
        assert host["test"] == memory["test"]

    def test_a_stopped_run_goes_on_to_the_bit(self, folder, tmp_path, monkeypatch):
        whole = train.train_and_evaluate(self.config(folder), tmp_path / "whole")
        save = checkpoint.Checkpoints.save

        def stop_after_three(self, state):
            save(self, state)
            if int(state.step) == 3:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.Checkpoints, "save", stop_after_three)
            with pytest.raises(KeyboardInterrupt):
                train.train_and_evaluate(self.config(folder), tmp_path / "parts")
        parts = train.train_and_evaluate(self.config(folder), tmp_path / "parts")
        assert parts["resumed_at"] == 3
        assert parts["test"] == whole["test"]
        embeddings = [np.load(tmp_path / name / "predictions.npz")["embeddings"] for name in ("whole", "parts")]
        np.testing.assert_array_equal(*embeddings)

    def test_momentum_is_the_papers_and_not_nesterovs(self):
        for config in (faces_config.get_config("synthetic"), faces_config.get_config("folder,naive")):
            assert (config.optimizer.momentum, config.optimizer.nesterov) == (0.9, False)

    def test_rows_of_drawn_faces_differ_in_nothing_but_the_row(self):
        assert faces_config.get_config("synthetic").data.validation_identities > 0
        query = faces_config.get_config("synthetic,metabalance").query
        shown: dict[str, dict[str, Any]] = {}
        for row in faces_config.ROWS:
            config = faces_config.get_config(f"synthetic,{row}")
            plain = config.method == "erm"
            images = config.train.batch_size if plain else config.meta.steps * query.batch_size
            support = 0 if plain or row == "no_adaptation_query" else images
            shown[row] = {"optimizer": config.optimizer, "loss": config.loss, "model": config.model, "read": images,
                          "updates": config.updates, "all": config.updates * (images + support)}  # fmt: skip
        for row in set(faces_config.ROWS) - set(faces_config.TWICE):  # equal updates
            for key in ("optimizer", "loss", "model", "read", "updates"):
                assert shown[row][key] == shown["metabalance"][key], (row, key)
        for row in (*faces_config.TWICE, "no_adaptation"):  # equal images
            for key in ("optimizer", "loss", "model", "read", "all"):
                assert shown[row][key] == shown["metabalance"][key], (row, key)
        stream = faces_config.get_config("synthetic,large_batch").train
        for key in ("sampler", "balance", "sum_groups", "augment"):  # what the query stream has, in one batch
            assert stream[key] == query[key]

    def test_rows_of_drawn_faces_choose_a_rate_and_end_in_a_table_and_a_figure(self, tmp_path):
        overrides = {
            "data.synthetic_identities": 20, "data.synthetic_images": 4, "data.size": 16, "data.test_identities": 6,
            "data.validation_identities": 4, "data.dir": str(tmp_path), "model.width": 2, "model.stages": (1,),
            "model.embedding": 8, "query.batch_size": 8, "support.batch_size": 8, "train.batch_size": 8, "updates": 2,
        }  # fmt: skip
        task = compare.Task(str(ROOT / "configs" / "faces.py"), overrides, "synthetic")
        task.module.GRID = {"optimizer.lr": (0.03, 0.1)}
        out = tmp_path / "out"
        table = compare.compare(task, names=["naive", "over", "no_adaptation_query"], seeds=[0], out=out)
        lines = [json.loads(text) for text in (out / "results.jsonl").read_text().splitlines()]
        assert len(lines) == 3 * 2  # each row with two learning rates
        of_over = [line for line in lines if line["row"] == "over"]
        best = max(of_over, key=lambda line: line["validation"]["rank1_accuracy"])
        low, high = best["test"]["rank1_accuracy_interval"]
        assert f"| over | 1 | {best['test']['rank1_accuracy']:.4f} [{low:.4f}, {high:.4f}] |" in table
        assert f"over lr {best['settings']['optimizer.lr']} (1/1)" in table
        assert {"gap.png", "training.png", "verification.png", "runs"} <= {path.name for path in out.iterdir()}
        runs = report.load_runs({"over": [out / best["folder"]]})
        written = [json.loads(text) for text in (out / best["folder"] / "metrics.jsonl").read_text().splitlines()]
        losses, rank1 = (axes.lines[0].get_xydata() for axes in faces_report.training_figure(runs).axes)
        losses, rank1 = (np.array(line, float).T for line in (losses, rank1))
        assert losses[0].tolist() == [row["step"] for row in written] == [1, 2]
        np.testing.assert_allclose(losses[1], [row["updates"]["loss"] for row in written])
        np.testing.assert_allclose(rank1[1], [row["validation"]["rank1_accuracy"] for row in written])
        result = json.loads((out / best["folder"] / "result.json").read_text())
        assert result["test"] == best["test"]
        line = plots.verification_figure({"over": best["test"]}).axes[0].lines[0]
        np.testing.assert_array_equal(line.get_ydata(), best["test"]["roc"]["true_accept_rates"])
        again = compare.compare(task, names=["naive", "over", "no_adaptation_query"], seeds=[0], out=out)
        assert again == table
        assert len((out / "results.jsonl").read_text().splitlines()) == 6  # nothing was left to do
