"""KEEL's own format: the official files read as their headers say, and what is none is refused by its line."""

import os
import pathlib
import zipfile

import numpy as np
import pandas as pd
import pytest

from mbjax.data.tables import keel, reading
from mbjax.types import UserError

TEXT = """@relation mixed
@attribute Size real [0.5, 9.0]
@attribute 'Number of rings' integer [1, 29]
@attribute Sex {M, F, 'un known'}
@attribute Class{positive, negative}
@inputs Size, Number of rings, Sex
@outputs Class
@data
0.5, 3, M, negative

5.0E-1,?,F,negative
<null>, 7, 'un known' , positive
% a comment
9,1,<null>,positive
"""


def test_numbers_nominal_values_and_missing_ones():
    frame, target = keel.read(TEXT, "mixed.dat")
    assert target == "Class"
    assert list(frame) == ["Size", "Number of rings", "Sex", "Class"]
    np.testing.assert_array_equal(frame["Size"], [0.5, 0.5, np.nan, 9])
    np.testing.assert_array_equal(frame["Number of rings"], [3, np.nan, 7, 1])
    assert frame["Sex"].tolist() == ["M", "F", "un known", None]
    assert frame["Class"].tolist() == ["negative", "negative", "positive", "positive"]


def test_the_last_attribute_is_the_target_where_no_output_is_named():
    assert keel.read(TEXT.replace("@outputs Class\n", ""), "mixed.dat").target == "Class"
    assert keel.read(TEXT.replace("@outputs Class", "@output Sex"), "mixed.dat").target == "Sex"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.5, 3, M, negative", "0.5, 3, M", "mixed.dat, line 9: 3 values for the 4 attributes"),
        ("real [0.5, 9.0]", "complex", "mixed.dat, line 2: attribute 'Size' is of type 'complex'"),
        ("@attribute Size real [0.5, 9.0]", "@attribute Size", "line 2: attribute 'Size' is of type ''"),
        ("0.5, 3, M", "half, 3, M", "attribute 'Size' has 'half' in line 9, which is no number"),
        ("0.5, 3, M", "0.5, 3, X", "attribute 'Sex' has 'X' in line 9, which is none of M, F, un known"),
        ("@data", "", "mixed.dat, line 9: '0.5, 3, M, negative' is before @data"),
        ("@outputs Class", "@outputs Kind", "@outputs Kind: one attribute is needed"),
        ("'Number of rings' integer", "Size integer", "line 3: attribute 'Size' is there twice"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(old, new, message):
    with pytest.raises(UserError) as error:
        keel.read(TEXT.replace(old, new), "mixed.dat")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", TEXT.partition("0.5, 3")[0], "@relation r\n@data\n1\n"])
def test_what_is_no_such_file(text):
    with pytest.raises(UserError, match=r"r\.dat"):
        keel.read(text, "r.dat")


def test_a_file_of_it_is_a_table_of_ones_own(tmp_path):
    (tmp_path / "mixed.dat").write_text(TEXT)
    pd.testing.assert_frame_equal(reading.read(tmp_path / "mixed.dat").frame, keel.read(TEXT, "mixed.dat").frame)
    parts = reading.chunks(tmp_path / "mixed.dat", {}, rows=3, wanted=(), text=())
    assert [len(part) for part in parts] == [3, 1]


ZIP = pathlib.Path(os.environ.get("MBJAX_DATA_DIR", "/nowhere"), "keel.zip")


@pytest.mark.skipif(not ZIP.exists(), reason="keel.zip is not in MBJAX_DATA_DIR")
def test_all_tables_of_the_archive():
    with zipfile.ZipFile(ZIP) as archive:
        tables = {name: keel.read(archive.read(name).decode(), name) for name in archive.namelist()}
    assert len(tables) == 69
    assert all(set(frame[target]) == {"positive", "negative"} for frame, target in tables.values())
    abalone = tables["abalone19/abalone19.dat"]
    assert (len(abalone.frame), (abalone.frame["Class"] == "positive").sum()) == (4174, 32)
    assert set(abalone.frame["Sex"]) == {"M", "F", "I"}
    assert not any(frame.isna().any(axis=None) for frame, _ in tables.values())
