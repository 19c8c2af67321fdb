"""Tables as people write them: each is read as a person would read it, or refused in one line that says what to set."""

import dataclasses
import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import mbjax
from mbjax import config_files, data, train
from mbjax.data import sources, splits
from mbjax.data.tables import csv_dialect, reading, tabular, treatments
from mbjax.data.tables.columns import TableColumns, numbers_with_blanks
from mbjax.data.tables.steps import apply
from mbjax.predict import tables
from mbjax.types import UserError

NAN = float("nan")
LONG = 60  # rows that are more than what is looked at, where the test says so


def day(text: str) -> float:
    """Days since 1970."""
    return (datetime.datetime.fromisoformat(text) - datetime.datetime(1970, 1, 1)).total_seconds() / 86_400


def dates(*texts: str, name: str = "d") -> dict[str, list[Any]]:
    """The columns that a column of dates becomes, before days are counted from the first of training."""
    moments = [datetime.datetime.fromisoformat(text) for text in texts]
    return {
        f"{name}: year": [float(m.year) for m in moments], f"{name}: month": [float(m.month) for m in moments],
        f"{name}: weekday": [float(m.weekday()) for m in moments], f"{name}: days": [day(text) for text in texts],
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A table with labels `y`, what its columns become (floats, or texts of a category), and what notes must say."""

    content: str | bytes
    expected: dict[str, list[Any]]
    notes: tuple[str, ...] = ()
    csv: dict[str, Any] = dataclasses.field(default_factory=dict)
    columns: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def bytes(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.encode()


SIMPLE = {"a": [1.5, 2.25], "w": ["red", "blue"]}
CASES = {
    "commas": Case("a,w,y\n1.5,red,0\n2.25,blue,1\n", SIMPLE),
    "semicolons": Case("a;w;y\n1.5;red;0\n2.25;blue;1\n", SIMPLE, ("separator ';'",)),
    "tabs": Case("a\tw\ty\n1.5\tred\t0\n2.25\tblue\t1\n", SIMPLE, (r"separator '\t'",)),
    "bars": Case("a|w|y\n1.5|red|0\n2.25|blue|1\n", SIMPLE, ("separator '|'",)),
    "a separator that is set": Case("a w y\n1.5 red 0\n2.25 blue 1\n", SIMPLE, csv={"sep": " "}),
    "commas in the words of a table with semicolons": Case(
        "w;y\nred, light;0\nblue, dark;1\n", {"w": ["red, light", "blue, dark"]}, ("separator ';'",)
    ),
    "utf-8 with a byte order mark": Case("\ufeffa,w,y\n1.5,red,0\n2.25,blue,1\n".encode(), SIMPLE),
    "cp1252": Case("a,w,y\n1,café,0\n2,Zürich,1\n".encode("cp1252"), {"a": [1.0, 2], "w": ["café", "Zürich"]},
                   ("encoding cp1252",)),
    "an encoding that is set": Case("w,y\nżółw,0\nkoń,1\n".encode("cp1250"), {"w": ["żółw", "koń"]},
                                    ("encoding cp1250",), csv={"encoding": "cp1250"}),
    "cp1252 after many rows of ascii": Case(b"w,y\n" + b"a,0\n" * LONG + "é,1\n".encode("cp1252"),
                                            {"w": ["a"] * LONG + ["é"]}, ("encoding cp1252",)),
    "utf-16": Case("a;w;y\n1,5;rød;0\n2,25;blå;1\n".encode("utf-16"), {"a": [1.5, 2.25], "w": ["rød", "blå"]},
                   ("encoding utf-16", "decimal mark ',' in column 'a'")),
    "decimal commas": Case("a;b;y\n1,5;3;0\n2,25;-4,0;1\n", {"a": [1.5, 2.25], "b": [3.0, -4]},
                           ("decimal mark ',' in column 'a', 'b'",)),
    "decimal commas in quotes": Case('a,b,y\n"1,5",3,0\n"2,25",4,1\n', {"a": [1.5, 2.25], "b": [3.0, 4]},
                                     ("decimal mark ',' in column 'a'",)),
    "thousands with commas": Case('a,y\n"1,234.5",0\n"12,345,678",1\n7,0\n', {"a": [1234.5, 12345678, 7]},
                                  ("column 'a': numbers, thousands ','",)),
    "commas in a table with commas group": Case('a,y\n"1,234",0\n999,1\n', {"a": [1234.0, 999]}, ("thousands ','",)),
    "thousands with points": Case("a;y\n1.234,5;0\n12.345.678;1\n7;0\n", {"a": [1234.5, 12345678, 7]},
                                  ("column 'a': numbers, decimal mark ',', thousands '.'",)),
    "thousands with blanks": Case("a;b;y\n1 234,5;1\u00a0000;0\n12\u202f345,25;7;1\n",
                                  {"a": [1234.5, 12345.25], "b": [1000.0, 7]}, ("decimal mark ',', thousands ' '",)),
    "thousands with apostrophes": Case("a;y\n1'234.50;0\n12’345;1\n7;0\n", {"a": [1234.5, 12345, 7]}, ("thousands",)),
    "points that group where commas are decimal": Case("a;b;y\n1.234;3,5;0\n2.500;0,25;1\n",
                                                       {"a": [1234.0, 2500], "b": [3.5, 0.25]}),
    "the same after many rows": Case("a;b;y\n" + "1.234;3;0\n" * LONG + "2.500;0,25;1\n",
                                     {"a": [1234.0] * LONG + [2500], "b": [3.0] * LONG + [0.25]}),
    "a decimal mark that is set": Case("a;y\n1.234;0\n2.500;1\n", {"a": [1234.0, 2500]}, csv={"decimal": ","}),
    "currencies": Case('a,b,y\n€ 5.50,"1,000 $",0\n€6,-20 USD,1\n7,$30,0\n', {"a": [5.5, 6, 7], "b": [1000.0, -20, 30]},
                       ("column 'a': numbers, unit €", "column 'b': numbers, thousands ',', unit $")),
    "currencies that are mixed": Case("a,y\n€5,0\n$6,1\n", {"a": ["€5", "$6"]},
                                      ("warning: column 'a' is a category: it mixes the units '$', '€'",)),
    "per cent": Case("a,y\n12.5%,0\n-3 %,1\n0%,0\n", {"a": [0.125, -0.03, 0]}, ("per cent as shares",)),
    "per cent that is mixed": Case("a,y\n12%,0\n5,1\n", {"a": ["12%", "5"]}, ("it mixes numbers with and without %",)),
    "negative in parentheses": Case("a,y\n(12.5),0\n3,1\n($4),0\n", {"a": [-12.5, 3, -4]}, ("in parentheses",)),
    "signs of their own": Case("a,y\n−5,0\n6-,1\n+7,0\n", {"a": [-5.0, -6, 7]}),
    "dates, ISO": Case("d,y\n2024-02-29,0\n2023-12-31,1\n", dates("2024-02-29", "2023-12-31"),
                       ("column 'd': dates written %Y-%m-%d, as year, month, weekday and days since",)),
    "dates, ISO with time": Case(
        "d,y\n2024-02-29T12:00:00Z,0\n2023-12-31 06:00,1\n2024-01-01T01:30:00+02:00,0\n,1\n",
        {k: [*v, NAN] for k, v in dates("2024-02-29T12:00", "2023-12-31T06:00", "2023-12-31T23:30").items()},
    ),
    "dates, d.m.Y": Case("d;y\n1.2.2024;0\n31.12.1969;1\n", dates("2024-02-01", "1969-12-31"), ("%d.%m.%Y",)),
    "dates, d/m/Y": Case("d,y\n01/02/2024,0\n13/02/2024,1\n", dates("2024-02-01", "2024-02-13"), ("%d/%m/%Y",)),
    "dates, m/d/Y": Case("d,y\n01/02/2024,0\n02/13/2024 3:30 PM,1\n", dates("2024-01-02", "2024-02-13T15:30"),
                         ("%m/%d/%Y",)),
    "dates, Y/m/d": Case("d,y\n2024/02/01,0\n2024/12/31,1\n", dates("2024-02-01", "2024-12-31")),
    "dates, names of months": Case('d,e,y\n"Feb 1, 2024",1. Mai 2024,0\n"December 31, 2023",2. Okt 2024,1\n',
                                   dates("2024-02-01", "2023-12-31") | dates("2024-05-01", "2024-10-02", name="e")),
    "a date's format that is set": Case("d,e,y\n01/02/2024,20240131,0\n02/03/2024,20231201,1\n",
                                        dates("2024-02-01", "2024-03-02") | dates("2024-01-31", "2023-12-01", name="e"),
                                        columns={"d": "date:%d/%m/%Y", "e": "date:%Y%m%d"}),
    "a few values that are no dates": Case(
        "d,y\n" + "2024-02-29,0\n" * 9 + "soon,1\n", {"d": ["2024-02-29"] * 9 + ["soon"]},
        ("warning: column 'd' is a category: it has dates such as '2024-02-29', but not 'soon'",),
    ),
    "dates that are not written alike": Case("d,y\n13/02/2024,0\n02/13/2024,1\n", {"d": ["13/02/2024", "02/13/2024"]},
                                             ("some with the day first and some with the month first",)),
    "a few values that are no numbers": Case(
        "a,y\n" + "5,0\n" * 9 + "many,1\n", {"a": ["5"] * 9 + ["many"]},
        ("warning: column 'a' is a category: it has numbers, but also 1 values that are none, 'many'",),
    ),
    "the same, set to be numbers": Case("a,y\n" + "5,0\n" * 9 + "many,1\n", {"a": [5.0] * 9 + [NAN]},
                                        ("1 values that are none are missing, 'many'",), columns={"a": "number"}),
    "numbers written in two ways": Case('a,y\n"1,5",0\n2.5,1\n', {"a": ["1,5", "2.5"]},
                                        ("warning: column 'a' is a category: its numbers are written in two ways",)),
    "words for missing numbers": Case("a,y\n5,0\n?,1\n-,0\nunknown,1\nN/A,0\n6.5,1\n",
                                      {"a": [5.0, NAN, NAN, NAN, NAN, 6.5]}, ("missing where '-', '?', 'unknown'",)),
    "two columns of one name": Case("a,a,y\n1,3,0\n2,4,1\n", {"a": [1.0, 2], "a.1": [3.0, 4]},
                                    ("warning: 2 columns are named 'a'",)),
    "a column without a name": Case(",a,y\n7,1,0\n9,2,1\n", {"Unnamed: 0": [7.0, 9], "a": [1.0, 2]},
                                    ("column 1 has no name and is called 'Unnamed: 0'",)),
    "rows with numbers of their own": Case("a;w;y\n1;1.5;red;0\n2;2.25;blue;1\n", SIMPLE, ("names the row: left out",)),
    "thousands as in India": Case('a,y\n"12,34,567.5",0\n"1,234",1\n', {"a": [1234567.5, 1234]}, ("thousands",)),
    "currencies before parentheses": Case("a,y\n£(5.00),0\n£7,1\n", {"a": [-5.0, 7]}, ("unit £",)),
    "a day that there is not": Case("d,y\n" + "2024-01-01,0\n" * 9 + "2024-02-30,1\n",
                                    {"d": ["2024-01-01"] * 9 + ["2024-02-30"]},
                                    ("'2024-01-01', but not '2024-02-30'",)),
    "names in other scripts": Case("größe,年齢,y\n1,3,0\n2,4,1\n", {"größe": [1.0, 2], "年齢": [3.0, 4]}),
    "blanks around names and words": Case("a, w , y\n1,red,0\n2,red ,1\n", {"a": [1.0, 2], "w": ["red", "red"]},
                                          ("column 'w': blanks around its values are left out",)),
    "blank lines and empty rows": Case("\n\na,w,y\n1.5,red,0\n\n,,\n2.25,blue,1\n,,\n\n", SIMPLE,
                                       ("2 empty rows left out",)),
    "separators at the ends of lines": Case("a,w,y\n1.5,red,0,\n2.25,blue,1,\n", SIMPLE,
                                            ("every row ends with a separator",)),
    "names of rows without a header": Case("a,w,y\nr1,1.5,red,0\nr2,2.25,blue,1\n", SIMPLE,
                                           ("names the row: left out",)),
    "a row of totals": Case("w,a,y\nred,1.5,0\nblue,2.25,1\nTotal,3.75,1\n", SIMPLE, ("the last row, 'Total'",)),
    "a row of totals under numbers": Case("n,a,y\n1,1.5,0\n2,2.25,1\nSum:,3.75,\n", {"n": [1.0, 2], "a": [1.5, 2.25]}),
    "a row of totals that is kept": Case("w,a,y\nred,1.5,0\nblue,2.25,1\nTotal,3.75,1\n",
                                         {"w": ["red", "blue", "Total"], "a": [1.5, 2.25, 3.75]}, csv={"footer": 0}),
    "rows at the end that are set": Case("a,w,y\n1.5,red,0\n2.25,blue,1\nmade,by hand,\n", SIMPLE, csv={"footer": 1}),
    "a comment above": Case("# made in 2024, by hand\na,w,y\n1.5,red,0\n2.25,blue,1\n", SIMPLE, ("1 line above",)),
    "two lines of title": Case('Report;\n"of 2024";\n\na;w;y\n1.5;red;0\n2.25;blue;1\n', SIMPLE, ("3 lines above",)),
    "lines above that are set": Case("w,a,y\nx,9,0\na,w,y\n1.5,red,0\n2.25,blue,1\n", SIMPLE, csv={"skip": 2}),
    "quoted separators and line ends": Case('w,a,y\n"a ""b"", c\nd",1.5,0\n"e,f",2.25,1\n',
                                            {"w": ['a "b", c\nd', "e,f"], "a": [1.5, 2.25]}),
    "truth in five spellings": Case("t,y\nYes,0\nno,1\nTRUE,0\nn,1\n1,0\n?,1\n",
                                    {"t": ["True", "False", "True", "False", "True", NAN]},
                                    ("column 't': true or false, spelled '1', 'TRUE', 'Yes', 'n', 'no'",)),
    "truth in five columns": Case(
        "a,b,c,d,e,y\nyes,T,1,ja,on,0\nno,F,0,nein,off,1\n",
        {"a": ["yes", "no"], "b": ["T", "F"], "c": [1.0, 0], "d": ["ja", "nein"], "e": ["on", "off"]},
    ),
    "a mark or nothing": Case("m,y\nx,0\n,1\nx,1\n", {"m": ["True", "False", "True"]},
                              ("true where 'x', false where",)),
    "words that differ in case": Case("w,y\nred,0\nRed,1\n", {"w": ["red", "Red"]},
                                      ("'Red', 'red', which differ in case",)),
    "codes with zeros in front": Case("z,y\n01234,0\n99999,1\n", {"z": [1234.0, 99999]},
                                      ("warning: column 'z' has numbers that begin with 0, such as 01234",)),
    "codes that are set to be categories": Case("z,y\n01234,0\n99999,1\n", {"z": ["01234", "99999"]},
                                                columns={"z": "category"}),
}  # fmt: skip


def typed(file: Path, **settings: Any) -> tuple[pd.DataFrame, list[str]]:
    """The columns of a file after their steps, and the notes."""
    raw, learned = treatments.read_and_learn(file, target="y", **settings)
    frame = apply(learned.steps, raw.frame.drop(columns=["y"]), file.name)
    assert set(raw.frame["y"]) <= {0, 1}
    return frame.assign(**numbers_with_blanks(frame)), [*raw.notes, *learned.notes]


def test_the_battery_is_one():
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_a_table_is_read_as_a_person_would(name, tmp_path, monkeypatch):
    case, file = CASES[name], tmp_path / "t.csv"
    if "many rows" in name:
        monkeypatch.setattr(csv_dialect, "_SAMPLE_BYTES", 100)
    file.write_bytes(case.bytes)
    frame, notes = typed(file, csv=case.csv, treatments=case.columns)
    assert list(frame) == list(case.expected) or set(frame) == set(case.expected)
    numbers, categories, _ = tabular.kinds(frame)
    for column, values in case.expected.items():
        if all(isinstance(value, float | int) for value in values):
            assert column in numbers, (column, notes)
            np.testing.assert_allclose(frame[column].astype(float), values, rtol=1e-12, err_msg=column)
        else:
            assert column in categories, (column, notes)
            got = frame[column].astype(object).where(frame[column].notna(), "missing").tolist()
            assert got == ["missing" if value is NAN else value for value in values]
    for said in case.notes:
        assert any(said in note for note in notes), notes
    if not case.notes and name == "commas":
        assert notes == []


# Chunks of new rows, without their labels: the path of `mbjax predict`.
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "many rows" not in name and "footer" not in
                                  case.csv and "totals" not in name and "empty rows" not in name])  # fmt: skip
def test_new_rows_take_the_same_path(name, tmp_path):
    case, file = CASES[name], tmp_path / "t.csv"
    file.write_bytes(case.bytes)
    raw, learned = treatments.read_and_learn(file, target="y", csv=case.csv, treatments=case.columns)
    features = raw.frame.drop(columns=["y"])
    frame = apply(learned.steps, features, file.name)
    frame = frame.assign(**numbers_with_blanks(frame))
    numbers, categories, _ = tabular.kinds(frame, list(case.columns))
    columns = TableColumns.fit(frame, numbers=numbers, categories=categories, ignored=("y",), steps=learned.steps,
                               columns=list(features), csv=case.csv)  # fmt: skip
    columns = TableColumns.from_dict(json.loads(json.dumps(columns.to_dict())))
    x = np.concatenate([x for _, x in tables.read(file, columns, rows=1)])
    np.testing.assert_array_equal(x, columns.encode(frame))
    assert len(x) == len(frame)


@pytest.mark.skipif("MBJAX_DATA_DIR" not in os.environ, reason="no $MBJAX_DATA_DIR")
@pytest.mark.parametrize("name", ["loan_data.csv", "stroke.csv", "telco_churn.csv", "ai4i2020.csv"])
def test_clean_tables_are_read_as_they_are(name):
    file = sources.find(name)
    raw = reading.read(file)
    assert (raw.notes, raw.dialect) == ((), csv_dialect.Dialect(point=True))
    plain = pd.read_csv(file, low_memory=False)
    pd.testing.assert_frame_equal(raw.frame, plain)
    assert treatments.learn(plain, source=name, dialect=raw.dialect) == ((), (), False)


REFUSED = {
    "day and month": (
        "d,y\n01/02/2024,0\n03/04/2024,1\n",
        {},
        r"'d': in dates .* set --config\.data\.columns=\"\{'d': 'date:%d/%m/%Y'\}\" or 'date:%m/%d/%Y'",
    ),
    "a point or thousands": (
        "a;y\n1.234;0\n2.500;1\n",
        {},
        r"column 'a' .* set --config\.data\.csv\.decimal=\. or --config\.data\.csv\.decimal=,$",
    ),
    "a comma or thousands": ("a;y\n1,234;0\n2,500;1\n", {}, r"column 'a' .* set --config\.data\.csv\.decimal=\. or"),
    "decimal commas between commas": (
        "a,b,y\n1,5,3,0\n2,5,4,1\n",
        {},
        "header has 3 fields and its first row 4 .*quotes",
    ),
    "two fields too many": ("a;b;y\nu;v;5;3;0\n", {}, r"header has 3 fields and its first row 5: mend it"),
    "another separator": ("a b y\n1 2 0\n", {}, r"it has 'a b y'; .* set --config\.data\.csv\.sep"),
    "no text": (b"a,y\n\xff\x81\x00,0\n", {}, r"name its encoding with --config\.data\.csv\.encoding"),
    "an encoding that there is not": (
        "a,y\n1,0\n",
        {"csv": {"encoding": "utf-99"}},
        r"config\.data\.csv\.encoding='utf-99'",
    ),
    "a separator of two characters": (
        "a,y\n1,0\n",
        {"csv": {"sep": ";;"}},
        r"config\.data\.csv=.*sep \(one character\)",
    ),
    "a key that there is not": ("a,y\n1,0\n", {"csv": {"quote": "'"}}, r"config\.data\.csv=.* are needed"),
    "a treatment that there is not": (
        "a,y\n1,0\n",
        {"columns": "{'a': 'text'}"},
        r"config\.data\.columns=.*number, category, date",
    ),
    "a treatment of no column": (
        "a,y\n1,0\n",
        {"columns": "{'b': 'number'}"},
        r"config\.data\.columns: no column 'b' in t\.csv",
    ),
    "no dates": (
        "a,y\nu,0\nv,1\n",
        {"columns": "{'a': 'date'}"},
        r"column 'a' has no dates that are known: set its format",
    ),
    "no dates of this format": (
        "a,y\nu,0\nv,1\n",
        {"columns": {"a": "date:%Y"}},
        r"column 'a' has no value that can be read",
    ),
    "a group and a time": (
        "a,y\n1,0\n",
        {"group": "a", "time": "a"},
        r"config\.data\.group='a' and config\.data\.time='a'",
    ),
    "a group that there is not": ("a,y\n1,0\n", {"group": "b"}, r"config\.data\.group: no column 'b'"),
    "a time that is none": ("a,y\nx,0\nz,1\n", {"time": "a"}, r"column 'a' holds 'x' in data row 1"),
    "a missing group": ("a,b,y\n1,2,0\n,3,1\n", {"group": "a"}, r"config\.data\.group='a': .* data row 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_is_refused_in_one_line(name, tmp_path):
    content, options, message = REFUSED[name]
    (tmp_path / "t.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message) as error:
        tabular.load(seed=0, path=str(tmp_path / "t.csv"), target="y", **options)
    assert "\n" not in str(error.value)


def european(rows: int = 300) -> pd.DataFrame:
    """Typed columns; `ill` depends on all of them a little."""
    rng = np.random.default_rng(0)
    income = rng.normal(3000, 900, rows).round(2)
    born = pd.to_datetime("1950-01-01") + pd.to_timedelta(rng.integers(0, 20_000, rows), "D")
    share = rng.random(rows).round(3)
    town = rng.choice(["Köln", "Zürich", "Łódź"[:0] + "Graz"], rows)
    score = income / 900 + share * 2 + (town == "Graz") + rng.normal(0, 0.5, rows)
    return pd.DataFrame({"income": income, "born": born, "share": share, "town": town, "n": rng.integers(0, 5000, rows),
                         "ill": np.where(score > np.quantile(score, 0.8), "ja", "nein")})  # fmt: skip


def written(frame: pd.DataFrame) -> bytes:
    """As a spreadsheet in Germany saves it."""
    points = lambda value: f"{value:,.2f}".replace(",", "_").replace(".", ",").replace("_", ".")  # noqa: E731
    out = frame.assign(
        income=[points(v) + " €" for v in frame["income"]], born=frame["born"].dt.strftime("%d.%m.%Y"),
        share=[f"{v * 100:.1f} %".replace(".", ",") for v in frame["share"]],
        n=[f"{v:,}".replace(",", ".") for v in frame["n"]],
    )  # fmt: skip
    return ("Auswertung;;\n\n" + out.to_csv(index=False, sep=";")).encode("cp1252")


def test_a_european_table_is_predicted_as_it_was_in_training(tmp_path):
    """By a run's model, of the held-back rows in a file of the same kind; the same numbers as of a plain table."""
    frame = european()
    (tmp_path / "t.csv").write_bytes(written(frame))
    config: Any = config_files.load("configs/tabular.py")
    config.data.update(path=str(tmp_path / "t.csv"), target="ill", validation_share=0.25)
    config.model.hidden = (8,)
    config.meta.steps = 4
    config.updates = 10
    result = train.train_and_evaluate(config, tmp_path / "run")
    said = " ".join(result["data"]["notes"])
    for words in ("separator ';', encoding cp1252, 2 lines above", "%d.%m.%Y", "thousands '.', unit €", "per cent"):
        assert words in said
    y = splits.encode_labels(frame.loc[:, "ill"])[0]
    test = frame.iloc[splits.split_indices(y, seed=0, validation_share=0.25)["test"]]
    (tmp_path / "new.csv").write_bytes(written(test))
    own = np.load(tmp_path / "run" / "predictions.npz")["probabilities"]
    model = mbjax.load(tmp_path / "run")
    np.testing.assert_allclose(model.predict_proba(tmp_path / "new.csv", priors="raw"), own, atol=1e-6, rtol=0)
    text = pd.read_csv(tmp_path / "new.csv", sep=";", encoding="cp1252", skiprows=2, dtype=str)
    for rows in (text, pl.from_pandas(text), text.iloc[:, ::-1]):
        np.testing.assert_allclose(model.predict_proba(rows, priors="raw"), own, atol=1e-6, rtol=0)
    with pytest.raises(
        UserError, match=r"column 'born' holds '2024-01-31' in data row 1 where training had dates such"
    ):
        model.predict_proba(text.assign(born="2024-01-31"))
    with pytest.raises(UserError, match=r"column 'income' holds '3.5' in data row 1 where training had a number"):
        model.predict_proba(text.assign(income="3.5"))


def test_dates_count_from_the_first_of_training(tmp_path):
    frame = european()
    index = splits.split_indices(splits.encode_labels(frame.loc[:, "ill"])[0], seed=0)
    frame.loc[index["test"][0], "born"] = pd.Timestamp("1900-01-01")
    (tmp_path / "t.csv").write_bytes(written(frame))
    columns = data.load("tabular", seed=0, path=str(tmp_path / "t.csv"), target="ill").preprocessing
    (step,) = [step for step in columns.steps if step.name == "born"]
    assert step.first == day(str(frame["born"].iloc[index["train"]].min()))
    days = step.convert(pd.Series(["01.01.1950"]), "")["born: days"]
    assert days[0] == day("1950-01-01") - step.first


@pytest.mark.parametrize("form", ["parquet", "feather", "arrow", "stream"])
def test_files_with_types_are_read_alike(form, tmp_path):
    import pyarrow as pa

    frame = european().assign(code=[f"{k % 7}" for k in range(300)])
    frame["born"] = frame["born"].astype("datetime64[ms]")
    file = tmp_path / f"t.{'arrow' if form == 'stream' else form}"
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if form == "parquet":
        frame.to_parquet(file)
    elif form == "feather":
        frame.to_feather(file)
    else:
        new = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
        with new(str(file), table.schema) as writer:
            writer.write_table(table, max_chunksize=100)
    dataset = data.load("tabular", seed=0, path=str(file), target="ill")
    columns: TableColumns = dataset.preprocessing
    assert {c.name: c.width for c in columns.categories} == {"town": 3, "code": 7}  # text on purpose
    assert "born: days" in [number.name for number in columns.numbers]
    features = np.concatenate([x for _, x in tables.read(file, columns, rows=70)])
    np.testing.assert_array_equal(features, columns.transform(frame))
    of_polars = tabular.from_frame(pl.from_pandas(frame), "ill", source="polars", seed=0)
    np.testing.assert_array_equal(of_polars.train.x, dataset.train.x)


def test_excel_files_say_what_they_take(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"t\.xlsx: reading \.xlsx files takes openpyxl: pip install openpyxl"):
        reading.read(tmp_path / "t.xlsx")


def test_excel_files_are_read(tmp_path):
    sheet = pd.DataFrame(
        {"a": [5, "?", None, 6.5, "Total"], "w": ["u", "v", None, "u", None], "y": [0, 1, None, 0, None]}
    )
    sheet.to_excel(tmp_path / "t.xlsx", index=False)
    raw, learned = treatments.read_and_learn(tmp_path / "t.xlsx", target="y")
    np.testing.assert_array_equal(apply(learned.steps, raw.frame, "t")["a"], [5, NAN, 6.5])
    assert raw.origin.tolist() == [1, 2, 4]


def test_rows_are_counted_as_in_the_file(tmp_path):
    lines = [",," if n % 5 == 2 else f"{n},{n % 3},{'yes' if n % 4 == 0 else 'no'}" for n in range(1, 60)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,y", *lines, "Total,,"]) + "\n")
    dataset = data.load("tabular", seed=0, path=str(tmp_path / "t.csv"), target="y")
    frame = pd.DataFrame([line.split(",") for line in lines], index=range(1, 60), columns=["a", "b", "y"])
    origins = [np.asarray(part.origin) for part in dataset.splits.values()]
    assert sorted(np.concatenate(origins)) == [n for n in range(1, 60) if n % 5 != 2]
    for part, rows in zip(dataset.splits.values(), origins, strict=True):
        np.testing.assert_array_equal(
            part.x, dataset.preprocessing.transform(frame.loc[rows, ["a", "b"]].astype(float))
        )


def suspicious(rows: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    y = (np.arange(rows) % 8 == 0).astype(int)
    closed = np.where(y == 1, rng.normal(0, 1, rows), np.nan)
    between = np.where(y == 1, rng.uniform(-0.1, 0.1, rows), rng.choice([-1, 1], rows) * rng.uniform(0.2, 1, rows))
    return pd.DataFrame({
        "customer_id": rng.permutation(10**6)[:rows], "number": np.arange(rows) + 7, "amount": rng.normal(0, 1, rows),
        "spend": rng.permutation(10**6)[:rows], "fixed": 3, "between": between, "closed": closed,
        "outcome": np.where(y, "bad", "good"), "flag": np.where((y == 1) & (rng.random(rows) < 0.7), 1, 0),
        "kind": rng.choice(["a", "b"], rows), "y": y,
    })  # fmt: skip


def test_ids_constants_and_leaks_are_named_and_stay(tmp_path):
    frame = suspicious()
    frame.to_csv(tmp_path / "t.csv", index=False)
    dataset = data.load("tabular", seed=0, path=str(tmp_path / "t.csv"), target="y")
    warned = {note.split("'")[1]: note for note in dataset.notes if note.startswith("warning: ")}
    assert set(warned) == {"customer_id", "number", "fixed", "between", "closed", "outcome", "flag"}
    assert "looks like an id" in warned["customer_id"]
    assert "looks like an id" in warned["number"]
    assert "same value" in warned["fixed"]
    for name in ("between", "closed", "outcome"):
        assert "predicts the label almost alone" in warned[name]
    assert "is '1' in" in warned["flag"]
    assert "all of them are '1'" in warned["flag"]
    assert set(dataset.preprocessing.used) == set(frame) - {"y"}


def test_leaks_are_judged_on_the_training_part(tmp_path):
    frame = suspicious().loc[:, ["amount", "y"]]
    amount, y = np.asarray(frame["amount"]), np.asarray(frame["y"])
    trained = np.isin(np.arange(400), splits.split_indices(y, seed=0)["train"])
    for values, said in ((np.where(trained, y, amount), True), (np.where(trained, amount, y), False)):
        frame.assign(late=values).to_csv(tmp_path / "t.csv", index=False)
        notes = data.load("tabular", seed=0, path=str(tmp_path / "t.csv"), target="y").notes
        assert any("'late' predicts the label" in note for note in notes) == said


def test_labels_that_differ_in_blanks_or_case_are_said(tmp_path):
    (tmp_path / "t.csv").write_text("a,y\n" + "1,no\n2,yes\n3,Yes \n" * 20)
    dataset = data.load("tabular", seed=0, path=str(tmp_path / "t.csv"), target="y")
    assert "warning: the labels 'Yes ', 'yes' differ in case or blanks alone: they are classes apart" in dataset.notes


@pytest.mark.parametrize("stratify", [True, False])
def test_one_group_is_never_in_two_parts(stratify, tmp_path):
    rng = np.random.default_rng(0)
    group = rng.integers(0, 60, 600)
    y = ((group % 5 == 0) ^ (rng.random(600) < 0.1)).astype(int)
    frame = pd.DataFrame({"customer": [f"c{g}" for g in group], "row": rng.permutation(600) / 7, "y": y})
    frame.to_csv(tmp_path / "t.csv", index=False)
    options = {"path": str(tmp_path / "t.csv"), "target": "y", "group": "customer", "stratify": stratify}
    dataset = data.load("tabular", seed=1, validation_share=0.25, **options)
    parts = splits.split_by_group(y, group, seed=1, validation_share=0.25, stratify=stratify)
    sides = [set(group[rows]) for rows in parts.values()]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    assert sum(map(len, parts.values())) == 600
    assert dataset.preprocessing.used == ("row",)  # a customer that training did not see is nothing to learn from
    scale = dataset.preprocessing.numbers[0]
    for name, rows in parts.items():
        np.testing.assert_allclose(
            dataset.splits[name].x[:, 0] * scale.scale + scale.shift, frame["row"].iloc[rows], rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(len(rows) / 600, {"train": 0.6, "validation": 0.2, "test": 0.2}[name], atol=0.05)
        if stratify:
            np.testing.assert_allclose(y[rows].mean(), y.mean(), atol=0.08)
    assert any("no value of it is in two parts" in note for note in dataset.notes)
    assert not np.array_equal(parts["test"], splits.split_by_group(y, group, seed=2, stratify=stratify)["test"])
    alone = splits.split_by_group(y, group, seed=1, stratify=stratify)["test"]
    np.testing.assert_array_equal(parts["test"], alone)  # whatever is validated on
    kept = data.load("tabular", seed=1, columns="{'customer': 'category'}", **options)
    assert kept.preprocessing.used == ("row", "customer")


def test_the_latest_rows_are_the_test_part(tmp_path):
    rng = np.random.default_rng(0)
    times = rng.integers(0, 100, 500)
    days = [datetime.date(2023, 12, 25) + datetime.timedelta(int(t)) for t in times]
    frame = pd.DataFrame({"when": [d.strftime("%d/%m/%Y") for d in days], "t": times, "a": rng.normal(0, 1, 500)})
    frame["y"] = rng.integers(0, 2, 500)
    frame.to_csv(tmp_path / "t.csv", index=False)
    options = {"path": str(tmp_path / "t.csv"), "target": "y", "validation_share": 0.25}
    dataset = data.load("tabular", seed=0, time="when", **options)
    scale = next(number for number in dataset.preprocessing.numbers if number.name == "t")
    column = [number.name for number in dataset.preprocessing.numbers].index("t")
    own = {name: split.x[:, column] * scale.scale + scale.shift for name, split in dataset.splits.items()}
    assert own["train"].max() < own["validation"].min() - 0.5
    assert own["validation"].max() < own["test"].min() - 0.5  # rows of one day are together
    for name, share in {"train": 0.6, "validation": 0.2, "test": 0.2}.items():
        assert len(own[name]) == pytest.approx(500 * share, abs=10)
    assert dataset.overlap == 0
    assert "when" not in dataset.preprocessing.used
    by_number = data.load("tabular", seed=5, time="t", **options)
    np.testing.assert_array_equal(by_number.test.y, dataset.test.y)
    with pytest.raises(UserError, match=r"config\.data\.time: all examples .* are of one time"):
        splits.split_by_time(np.zeros(5))


def out_of_core(file: Path, folder: Path, **options: Any) -> Any:
    return data.load("table", seed=0, path=str(file), target="ill", prepared=str(folder), test_share=0.4, **options)


def test_out_of_core_reads_the_same_files_or_says_what_to_set(tmp_path):
    frame = european(1000)[["share", "town", "n", "ill"]]
    frame["n"] %= 7
    text = frame.assign(share=[str(v).replace(".", ",") for v in frame["share"]]).to_csv(index=False, sep=";")
    (tmp_path / "t.csv").write_bytes(("Titel\n" + text).encode("cp1252"))
    dataset = out_of_core(tmp_path / "t.csv", tmp_path / "a", columns="{'n': 'category'}")
    columns = TableColumns.from_dict(json.loads(json.dumps(dataset.preprocessing.to_dict())))
    x = np.concatenate([x for _, x in tables.read(tmp_path / "t.csv", columns, rows=300)])
    order = lambda a: a[np.lexsort(a.T)]  # noqa: E731
    both = np.concatenate([dataset.train.x[:], dataset.test.x[:]])
    assert np.array_equal(order(both), order(x))
    number = columns.numbers[0]
    wanted = (frame["share"] - number.shift) * number.factor
    np.testing.assert_allclose(x[:, 0], wanted, rtol=1e-4, atol=1e-5)
    assert {c.name: c.width for c in columns.categories} == {"town": 3, "n": 7}
    (tmp_path / "t.csv").write_bytes(written(european()))
    with pytest.raises(UserError, match=r"column 'income' has numbers such as .* set --config\.data\.columns"):
        out_of_core(tmp_path / "t.csv", tmp_path / "b")
    with pytest.raises(UserError, match=r"'income' is 'number', and the task table, which converts nothing, takes"):
        out_of_core(tmp_path / "t.csv", tmp_path / "b", columns={"income": "number"})
    drop = {"income": "drop", "born": "drop", "share": "drop", "n": "category"}
    assert out_of_core(tmp_path / "t.csv", tmp_path / "b", columns=drop).preprocessing.used == ("town", "n")
