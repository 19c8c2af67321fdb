"""Writes a finished run's model for elsewhere, with its preprocessing and calibration.

    mbjax export runs/churn --format=onnx --out=churn.onnx
    mbjax export runs/churn --format=stablehlo --out=churn.stablehlo

`churn.stablehlo.json` beside the second says what its inputs are. docs/predict.md shows how either is read.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence

from mbjax import atomic, console, export
from mbjax.predict import load
from mbjax.types import UserError


def _export(arguments: Sequence[str]) -> None:
    parser = console.Parser(
        prog="mbjax export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=pathlib.Path, help="the folder of a finished run, or of its model")
    add("--format", choices=("onnx", "stablehlo"), required=True)
    add("--out", type=pathlib.Path, required=True, help="the file to write")
    options = parser.parse_args(arguments)
    predictor, out = load(options.run), options.out
    content, about = (export.to_onnx(predictor), None) if options.format == "onnx" else export.to_stablehlo(predictor)
    try:
        if about is not None:
            atomic.write_text(out.with_name(out.name + ".json"), json.dumps(about, indent=2) + "\n")
        with atomic.writing(out) as stream:
            stream.write(content)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from None
    print(f"{len(content):,} bytes in {out}")


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(_export, arguments)


if __name__ == "__main__":
    main()
