"""Larger batteries, of whole processes: `batteries.py BATTERY [--count=N] [--seed=S] [--jobs=J]`.

    flips    a flipped bit or a truncation in each file of a run folder and of the caches, then the same command
    kills    SIGKILL at a random moment, as often as it takes, then the same command to its end: of digits, of
             `configs/cifar10.py:small` cut down (its images in MBJAX_DATA_DIR), and of digits in two processes
    disk     a file system (tmpfs, which takes root) with too little room, then the same command with enough
    memory   resident memory and open files over a run of 20,000 updates and a comparison of 500 runs

Each prints a table of outcomes. The exit status is 1 if one is another result, a traceback or a lost checkpoint.
"""

import argparse
import collections
import concurrent.futures
import itertools
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import memory
import numpy as np
from jobs import JOBS, Ended, Job, Outcome, Place, judge

BAD = (
    "another result", "other predictions", "a traceback", "a crash", "several lines", "a lost checkpoint",
    "a damaged checkpoint", "another end of the other process",
)  # fmt: skip
Outcomes = collections.Counter[tuple[str, str]]


class Whole(NamedTuple):
    """A run that nothing happened to, what it came to, and how long it took with warm caches."""

    place: Place
    wanted: Outcome
    seconds: float


def whole_run(job: Job, folder: pathlib.Path) -> Whole:
    place = Place.make(job, folder)
    ended = place.finish()
    if ended.status:
        sys.exit(f"the run itself fails: {ended.said}")
    again = Place.make(job, folder.with_name(f"{folder.name}-again"), place.home)
    started = time.monotonic()
    ended = again.finish()
    seconds = time.monotonic() - started
    if (said := judge(ended, again, place, place.outcome())) not in ("the same result", "the same result to rounding"):
        sys.exit(f"two runs that nothing happened to: {said}")
    return Whole(place, place.outcome(), seconds)


class Battery(NamedTuple):
    """What all batteries need: how many, of which seed, how many side by side, and where."""

    count: int
    seed: int
    jobs: int
    folder: pathlib.Path

    def random(self, *names: object) -> random.Random:
        return random.Random(f"{self.seed} {names}")

    def side_by_side(self, function: Callable[[int], Outcomes], numbers: range) -> Outcomes:
        """The outcomes of all numbers, each printed when it is known: of a battery that is stopped, too."""

        def shown(number: int) -> Outcomes:
            outcomes = function(number)
            for (what, outcome), count in outcomes.items():
                print(f"{number}: {what}: {outcome}: {count}", flush=True)
            return outcomes

        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            return sum(pool.map(shown, numbers), Outcomes())


# Damaged files.

AREAS: dict[str, Callable[[Place], pathlib.Path]] = {
    "a finished run": lambda place: place.run,
    "an unfinished run": lambda place: place.run,
    "resampled data": lambda place: place.home / ".cache/mbjax/resampled",
    "compiled programs": lambda place: place.home / ".cache/mbjax/compiled",
}


def flips(battery: Battery) -> Outcomes:
    """Counts outcomes by what was damaged. In each area file after file has its turn, in a random order."""
    whole = whole_run(JOBS["digits"], battery.folder / "whole")
    inputs = np.random.default_rng(0).random((20, 8, 8, 1), np.float32)
    predicted = whole.place.probabilities(inputs)
    turns = {
        area: [f.relative_to(whole.place.folder) for f in sorted(of(whole.place).rglob("*")) if f.is_file()]
        for area, of in AREAS.items()
    }
    turns["an unfinished run"].remove(pathlib.Path("run/result.json"))
    for area, files in turns.items():
        battery.random(area).shuffle(files)

    def one(number: int) -> Outcomes:
        area, file = [*AREAS][number % len(AREAS)], turns[[*AREAS][number % len(AREAS)]]
        file = file[number // len(AREAS) % len(file)]
        place = whole.place.copy(battery.folder / f"flip-{threading.get_ident()}")
        if area != "a finished run":
            (place.run / "result.json").unlink()
        if area in ("resampled data", "compiled programs"):
            shutil.rmtree(place.run / "checkpoints")
            (place.run / "metrics.jsonl").unlink()
        how = damage(place.folder / file, battery.random(number))
        said = judge(place.finish(), place, whole.place, whole.wanted)
        if said.startswith("the same result") and (now := place.probabilities(inputs)) != predicted:
            said = "other predictions" if now is not None else f"{said}; its model is refused, in one line"
        if said in BAD:
            place.copy(battery.folder / f"bad-{number}")
            print(f"{area}, {file}, {how}: {said}; kept in {battery.folder}/bad-{number}", flush=True)
        return Outcomes({(area, said): 1})

    print({area: f"{len(files)} files" for area, files in turns.items()}, flush=True)
    return battery.side_by_side(one, range(battery.count))


def damage(file: pathlib.Path, chance: random.Random) -> str:
    """Truncates a file or flips one of its bits, and says so."""
    content = bytearray(file.read_bytes())
    size = len(content)
    if not size:
        content, how = bytearray(b"\0"), "a byte where there was none"
    elif chance.random() < 0.25:
        content = content[: chance.randrange(size)]
        how = f"{len(content)} of {size} bytes"
    else:
        place, bit = chance.randrange(size), chance.randrange(8)
        content[place] ^= 1 << bit
        how = f"bit {bit} of byte {place} of {size}"
    file.write_bytes(content)
    return how


# Killed processes.

MOMENTS = {"at any moment": 0.4, "while it trains": 0.2, "while it saves": 0.3, "while it writes its result": 0.1}
SHARES = {"digits": 0.6, "CIFAR small": 0.25, "two processes": 0.15}


def kills(battery: Battery) -> Outcomes:
    """Counts outcomes of jobs that were killed, up to five times each; `count` is of kills."""
    outcomes = Outcomes()
    for name, share in SHARES.items():
        whole = whole_run(JOBS[name], battery.folder / name.replace(" ", "-"))
        print(f"{name}: a whole run takes {whole.seconds:.1f} s", flush=True)
        wanted, lock, left = round(share * battery.count), threading.Lock(), itertools.count()
        done = 0

        def worker(number: int, name=name, whole=whole, wanted=wanted, lock=lock, left=left) -> Outcomes:
            nonlocal done
            mine = Outcomes()
            while done < wanted:
                chance = battery.random(name, next(left))
                with lock:
                    most = max(min(chance.randint(1, 5), wanted - done), 0)
                    done += most
                found, killed = kill_often(most, chance, whole, battery.folder / f"kill-{number}", name)
                mine += found
                print(dict(found), flush=True)
                with lock:
                    done -= most - killed
            return mine

        outcomes += battery.side_by_side(worker, range(battery.jobs))
    return outcomes


def kill_often(most: int, chance: random.Random, whole: Whole, folder: pathlib.Path, name: str) -> tuple[Outcomes, int]:
    """Kills a job up to so many times, then lets it end. Returns outcomes, and how many kills found it alive."""
    outcomes, killed = Outcomes(), 0
    place = Place.make(whole.place.job, folder, whole.place.home)
    for _ in range(most):
        before, processes = place.checkpoints(), place.start()
        moment = chance.choices([*MOMENTS], [*MOMENTS.values()])[0]
        wait_for(moment, chance, place, processes, whole.seconds)
        if any(process.poll() is not None for process in processes):
            place.end(processes)
            break
        # Before the processes have joined, one would wait minutes for the other: a host that goes down ends both.
        victims = [chance.choice(processes)] if place.is_held_by(processes[0]) else processes
        for process in victims:
            process.kill()
        ended, killed = place.end(processes), killed + 1
        outcomes[f"{name}, killed {moment}", "killed"] += 1
        if not ends_well(ended, [process for process in processes if process not in victims]):
            outcomes[f"{name}, killed {moment}", "another end of the other process"] += 1
            print(f"{name}, killed {moment}: the other process ended with\n{ended.said}", flush=True)
        if before[-1:] and before[-1] not in place.checkpoints():
            outcomes[f"{name}, killed {moment}", "a lost checkpoint"] += 1
    before, ended_before = place.checkpoints(), (place.run / "result.json").exists()
    ended = place.finish()
    said = judge(ended, place, whole.place, whole.wanted)
    if said.startswith("the same") and not ended_before and place.result()["resumed_at"] != (before or [0])[-1]:
        said = "a lost checkpoint"
    if "damaged" in ended.said:
        said = "a damaged checkpoint"
    outcomes[f"{name}, to its end", said] += 1
    if said in BAD:
        kept = folder.with_name(f"bad-{name.replace(' ', '-')}-{time.monotonic_ns()}")
        place.copy(kept)
        print(f"{name}: {said}; kept in {kept}; it said\n{ended.said}", flush=True)
    return outcomes, killed


def ends_well(ended: Ended, others: list[subprocess.Popen]) -> bool:
    """Whether the processes that were not killed ended by themselves, and said why."""
    gone = all(process.returncode == 1 for process in others) and "is gone: it was killed" in ended.said
    return (gone or not others) and "Traceback" not in ended.said


def wait_for(
    moment: str, chance: random.Random, place: Place, processes: list[subprocess.Popen], seconds: float
) -> None:
    """Waits until the moment to kill, or until a process ends."""
    first, deadline = names(place.run), time.monotonic() + 20 * seconds

    def wait(ready: Callable[[], bool]) -> None:
        while not ready() and time.monotonic() < deadline and all(p.poll() is None for p in processes):
            time.sleep(0.002)

    if moment == "at any moment":
        until = time.monotonic() + chance.uniform(0.05, 1) * seconds
    else:
        wait(lambda: MARKS[moment](names(place.run) - first))
        until = time.monotonic() + chance.uniform(0, DELAYS[moment]) * seconds
    wait(lambda: time.monotonic() >= until)


def names(run: pathlib.Path) -> set[str]:
    """What is in a run's folder and among its checkpoints; the metrics with their inode: resuming writes a new file."""
    found = set()
    for folder in (run, run / "checkpoints"):
        try:
            found |= {f"{f.name} {f.stat().st_ino}" if f.name == "metrics.jsonl" else f.name for f in folder.iterdir()}
        except OSError:  # not there yet, or a file that is renamed meanwhile
            continue
    return found


MARKS: dict[str, Callable[[set[str]], bool]] = {  # by new names in the folder
    "while it trains": lambda new: any(name.startswith("metrics.jsonl") for name in new),
    "while it saves": lambda new: any("checkpoint-tmp" in name for name in new),
    "while it writes its result": lambda new: any(name.endswith(".png") or ".model" in name for name in new),
}
DELAYS = {"while it trains": 0.2, "while it saves": 0.02, "while it writes its result": 0.1}  # of a whole run's time


# Full disks.


def disk(battery: Battery) -> Outcomes:
    """Counts outcomes of runs whose folder has from 4 KB to 400 KB of room, and then enough."""
    whole = whole_run(JOBS["digits"], battery.folder / "whole")

    def one(number: int) -> Outcomes:
        outcomes = Outcomes()
        size = 4 + round(396 * number / max(battery.count - 1, 1))
        place = Place.make(JOBS["digits"], battery.folder / f"disk-{number}", whole.place.home)
        mount = ["mount", "-t", "tmpfs", "-o"]
        subprocess.run([*mount, f"size={size}k,mode=700", "tmpfs", place.folder], check=True)
        try:
            for room in ("too little room", "then enough"):
                said = judge(place.finish(), place, whole.place, whole.wanted)
                outcomes[room, said] += 1
                if said in BAD:
                    print(f"{size} KB, {room}: {said}", flush=True)
                subprocess.run([*mount, "remount,size=64m", "tmpfs", place.folder], check=True)
        finally:
            subprocess.run(["umount", place.folder], check=True)
        return outcomes

    return battery.side_by_side(one, range(battery.count))


def flat(battery: Battery) -> Outcomes:
    """Counts of what stays flat; `count` does not matter."""
    return Outcomes(memory.watch_all(battery.folder))


BATTERIES = {"flips": flips, "kills": kills, "disk": disk, "memory": flat}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("battery", choices=[*BATTERIES])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--jobs", type=int, default=2, help="side by side")
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mbjax-battery-"))
    print(f"{options.battery} --count={options.count} --seed={options.seed}, in {folder}", flush=True)
    started = time.monotonic()
    outcomes = BATTERIES[options.battery](Battery(options.count, options.seed, options.jobs, folder))
    print(f"in {(time.monotonic() - started) / 60:.1f} minutes")
    for (what, outcome), number in sorted(outcomes.items()):
        print(f"| {what} | {outcome} | {number} |")
    if bad := sum(number for (_, outcome), number in outcomes.items() if outcome in BAD or "grows" in outcome):
        sys.exit(f"{bad} of them are faults; see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
