"""Larger batteries, of whole processes: `python tests/robustness/batteries.py flips|kills|disk --count=N [--seed=S]`.

    flips    a flipped bit or a truncation in a file of a run folder or of a cache, then the same command
    kills    SIGKILL at a random moment, as often as it takes, then the same command to its end
    disk     a file system (tmpfs, which takes root) with too little room, then the same command with enough

Each prints a table of outcomes. The exit status is 1 if one is another result, a traceback or a lost checkpoint.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [
    sys.executable, "-m", "mbjax.main", "--config=configs/digits.py", "--config.updates=60", "--config.eval.every=20",
    "--config.updates_per_call=5", "--config.meta.steps=8", "--config.query.sampler=smote",
    "--config.query.neighbors=2",
]  # fmt: skip
BAD = ("another result", "a traceback", "a crash", "several lines", "a lost checkpoint")


class Ended(NamedTuple):
    """How a process ended: its exit status and what it wrote to the standard error."""

    status: int
    error: str

    @property
    def warned(self) -> bool:
        return any(word in self.error for word in ("damaged", "lacks the rows", "cannot be"))


class Place(NamedTuple):
    """A run's folder, and the home that holds the caches."""

    run: pathlib.Path
    home: pathlib.Path

    def start(self) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(self.home), "JAX_PLATFORMS": "cpu"}
        return subprocess.Popen(
            [*COMMAND, f"--workdir={self.run}"], cwd=ROOT, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip

    def finish(self) -> Ended:
        process = self.start()
        _, error = process.communicate()
        return Ended(process.returncode, error)

    def copy(self, folder: pathlib.Path) -> "Place":
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("run", "home"):
            shutil.copytree(getattr(self, part), folder / part)
        return Place(folder / "run", folder / "home")

    def outcome(self) -> tuple[str, dict]:
        """The digest of the last checkpoint's state, and the scores."""
        about = self.run / "checkpoints/60/run/metadata"
        result = json.loads((self.run / "result.json").read_text())
        return json.loads(about.read_text())["state"], {key: result[key] for key in ("test", "priors_test")}


def judge(ended: Ended, place: Place, wanted: tuple[str, dict]) -> str:
    if ended.status < 0:
        return "a crash"
    if "Traceback" in ended.error:
        return "a traceback"
    if ended.status:
        errors = [line for line in ended.error.splitlines() if line.startswith("mbjax: error")]
        return "refused, in one line" if len(errors) == 1 else "several lines"
    if place.outcome() != wanted:
        return "another result"
    return "the same result, and a word" if ended.warned else "the same result"


def flips(count: int, folder: pathlib.Path, whole: Place, wanted: tuple[str, dict]) -> collections.Counter:
    """Counts outcomes by what was damaged."""
    outcomes = collections.Counter()
    areas: dict[str, Callable[[Place], pathlib.Path]] = {
        "a finished run": lambda place: place.run,
        "an unfinished run": lambda place: place.run,
        "resampled data": lambda place: place.home / ".cache/mbjax/resampled",
        "compiled programs": lambda place: place.home / ".cache/mbjax/compiled",
    }
    for number in range(count):
        area = [*areas][number % len(areas)]
        place = whole.copy(folder / "flip")
        if area != "a finished run":
            (place.run / "result.json").unlink()
        if area in ("resampled data", "compiled programs"):
            shutil.rmtree(place.run / "checkpoints")
            (place.run / "metrics.jsonl").unlink()
        files = [file for file in sorted(areas[area](place).rglob("*")) if file.is_file() and file.stat().st_size]
        file = random.choice(files)
        content = bytearray(file.read_bytes())
        if random.random() < 0.25:
            content = content[: random.randrange(len(content))]
        else:
            content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        file.write_bytes(content)
        said = judge(place.finish(), place, wanted)
        outcomes[area, said] += 1
        if said in BAD:
            kept = folder / f"bad-{number}"
            place.copy(kept)
            print(f"{area}, {file.relative_to(folder / 'flip')}: {said}; kept in {kept}", flush=True)
    return outcomes


def kills(count: int, folder: pathlib.Path, whole: Place, wanted: tuple[str, dict]) -> collections.Counter:
    """Counts outcomes of runs that were killed, each up to five times; `count` is of kills."""
    outcomes, done, seconds = collections.Counter(), 0, 0.0
    while done < count:
        shutil.rmtree(folder / "kill", ignore_errors=True)
        place = Place(folder / "kill/run", whole.home)
        for _ in range(min(random.randint(1, 5), count - done)):
            before = checkpoints(place)
            started, process = time.monotonic(), place.start()
            try:
                process.communicate(timeout=random.uniform(0.3, 1.0) * seconds if seconds else None)
                seconds = seconds or time.monotonic() - started
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                done += 1
            if lost := [step for step in before[-1:] if step not in checkpoints(place)]:
                outcomes["killed", "a lost checkpoint"] += 1
                print(f"checkpoint {lost[0]} is lost", flush=True)
        outcomes["killed", judge(place.finish(), place, wanted)] += 1
    return outcomes


def checkpoints(place: Place) -> list[int]:
    folder = place.run / "checkpoints"
    return sorted(int(file.name) for file in folder.iterdir() if file.name.isdigit()) if folder.exists() else []


def disk(count: int, folder: pathlib.Path, whole: Place, wanted: tuple[str, dict]) -> collections.Counter:
    """Counts outcomes of runs whose folder has from 4 KB to 400 KB of room, and then enough."""
    outcomes = collections.Counter()
    mounted = folder / "disk"
    mounted.mkdir()
    for number in range(count):
        size = 4 + round(396 * number / max(count - 1, 1))
        mount = ["mount", "-t", "tmpfs", "-o"]
        subprocess.run([*mount, f"size={size}k,mode=700", "tmpfs", mounted], check=True)
        try:
            place = Place(mounted / "run", whole.home)
            outcomes["too little room", judge(place.finish(), place, wanted)] += 1
            subprocess.run([*mount, "remount,size=64m", "tmpfs", mounted], check=True)
            outcomes["then enough", judge(place.finish(), place, wanted)] += 1
        finally:
            subprocess.run(["umount", mounted], check=True)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("battery", choices=["flips", "kills", "disk"])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    random.seed(options.seed)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mbjax-battery-"))
    whole = Place(folder / "whole/run", folder / "whole/home")
    whole.home.mkdir(parents=True)
    ended = whole.finish()
    if ended.status:
        sys.exit(f"the run itself fails: {ended.error}")
    wanted = whole.outcome()
    outcomes = globals()[options.battery](options.count, folder, whole, wanted)
    print(f"{options.battery} --count={options.count} --seed={options.seed}")
    for (what, outcome), number in sorted(outcomes.items()):
        print(f"| {what} | {outcome} | {number} |")
    if bad := sum(number for (_, outcome), number in outcomes.items() if outcome in BAD):
        sys.exit(f"{bad} of them are faults; see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
