"""Compiled programs are kept on disk: a second start compiles nothing."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax._src import compilation_cache

from mbjax import programs

ROOT = pathlib.Path(__file__).parent.parent

# Runs mbjax.main and prints how many programs were asked for and how many of them were loaded.
COUNTED = """
import collections, json, runpy, sys, jax
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.rpartition("/")[2]]))
try:
    runpy.run_module("mbjax.main", run_name="__main__", alter_sys=True)
finally:
    print(json.dumps([events["compile_requests_use_cache"], events["cache_hits"]]))
"""
SMALL = """
import jax
from mbjax import cli, programs
cli.show_log()
programs.keep()
print(abs(jax.jit(lambda x: 2 * x)(21)))
"""


def python(code, *arguments, **environment):
    """Runs code in a process of its own, with none of the caller's settings of what is kept."""
    given = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    given |= {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        **{key: str(value) for key, value in environment.items()},
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, env=given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


def kept(home):
    return sorted(path for path in (home / ".cache/mbjax/compiled").rglob("*-kept"))


@pytest.fixture
def jax_settings(monkeypatch):
    """Puts back what `programs.keep` sets."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    monkeypatch.setattr(compilation_cache, "get_file_cache", compilation_cache.get_file_cache)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "")
    before = {name: getattr(jax.config, name) for name in names}
    yield lambda: {name: getattr(jax.config, name) for name in names}
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_second_start_compiles_nothing_and_gives_the_same_to_the_bit(tmp_path):
    command = ["--config=configs/digits.py", "--config.updates=2", "--config.eval.every=2"]
    runs = []
    for name in ("cold", "warm"):
        done = python(COUNTED, *command, f"--workdir={tmp_path / name}", HOME=tmp_path)
        runs.append((json.loads(done.stdout.splitlines()[-1]), kept(tmp_path), done.stderr))
    ((asked, loaded), files, _), (warm, files_after, stderr) = runs
    assert asked - loaded == len(files)
    assert len(files) > 20
    assert warm == [asked, asked]  # every program was asked for again, and loaded
    assert files_after == files
    assert "cpu_aot_loader" not in stderr
    assert "Warning" not in stderr
    predictions = [np.load(tmp_path / name / "predictions.npz")["probabilities"] for name in ("cold", "warm")]
    np.testing.assert_array_equal(*predictions)
    losses = [json.loads((tmp_path / name / "metrics.jsonl").read_text())["updates"] for name in ("cold", "warm")]
    assert losses[0] == losses[1]


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path):
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/mbjax").write_text("a file where the folder should be")
    done = python(SMALL, HOME=tmp_path)
    assert done.stdout == "42\n"
    assert done.stderr.startswith("compiled programs are not kept: ")
    assert str(tmp_path / ".cache/mbjax") in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_folder_that_the_user_names_is_taken(tmp_path):
    python(SMALL, HOME=tmp_path, JAX_COMPILATION_CACHE_DIR=tmp_path / "own")
    assert [path for path in (tmp_path / "own").iterdir() if path.name.startswith("jit__lambda")]
    assert not kept(tmp_path)


def test_a_damaged_program_is_set_aside_and_compiled_again(tmp_path):
    """JAX itself would crash of it, or compute something else."""
    python(SMALL, HOME=tmp_path)
    one, other = kept(tmp_path)
    whole = one.read_bytes(), other.read_bytes()
    flipped = bytearray(whole[1])
    flipped[len(flipped) // 3] ^= 4
    for broken in ((whole[0][:-1], bytes(flipped)), (whole[1], b"")):  # a whole one of another key, as of a wrong name
        one.write_bytes(broken[0])
        other.write_bytes(broken[1])
        done = python(SMALL, HOME=tmp_path)
        assert done.stdout == "42\n"
        lines = done.stderr.splitlines()
        assert len(lines) == 2
        assert all(
            line.startswith("a compiled program is damaged and is made again; the file is now") for line in lines
        )
        assert [path.with_name(f"{path.name}.damaged").read_bytes() for path in (one, other)] == [*broken]
    assert python(SMALL, HOME=tmp_path).stderr == ""


def test_programs_are_kept_for_their_user_alone(tmp_path):
    python(SMALL, HOME=tmp_path)
    (own,) = (tmp_path / ".cache/mbjax/compiled").iterdir()
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in (own.parent.parent, own.parent, own))
    own.chmod(0o777)
    before = {path: path.stat().st_mtime_ns for path in own.iterdir()}
    done = python(SMALL, HOME=tmp_path)
    assert done.stdout == "42\n"
    assert done.stderr == (f"compiled programs are not kept: [Errno 1] others may write to it: chmod go-w: '{own}'\n")
    assert {path: path.stat().st_mtime_ns for path in own.iterdir()} == before


def test_several_processes_keep_programs_only_where_they_are_told(tmp_path, monkeypatch, jax_settings):
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name, raising=False)
    before = jax_settings()["jax_compilation_cache_dir"]
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    programs.keep(tmp_path)
    assert jax_settings()["jax_compilation_cache_dir"] == before
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    programs.keep(tmp_path)
    assert jax_settings() == {
        "jax_compilation_cache_dir": str(tmp_path / programs._machine()),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }


def test_machines_share_programs_only_if_instructions_and_cores_are_the_same(monkeypatch):
    core = "processor : 0\nmodel name : A\ncpu MHz : {mhz}\nflags : fpu avx2 {more}\n\nprocessor : 1\nflags : fpu\n"

    def name(mhz="2000", more="avx512f", cores=(0, 1)):
        text = core.format(mhz=mhz, more=more)
        monkeypatch.setattr(pathlib.Path, "read_text", lambda path: text)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(cores))
        return programs._machine()

    assert name() == name(mhz="3100")
    assert len({name(), name(more=""), name(cores=(0,))}) == 3


def test_what_was_not_read_for_longest_is_removed_first(tmp_path):
    for age, where in enumerate(("a/new", "b/middle", "a/old")):
        file = tmp_path / where
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(100))
        os.utime(file, (1e9 - age, 1e9 + age))  # written in the other order
    programs._prune(tmp_path, 300)
    assert len(list(tmp_path.glob("*/*"))) == 3
    programs._prune(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["middle", "new"]
    programs._prune(tmp_path, 99)
    assert not list(tmp_path.glob("*/*"))
