"""The site: `launch/docs.sh` builds it. Pages are MyST Markdown; the API reference comes from the docstrings."""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from docutils import nodes

import mbjax

project = "mbjax"
author = copyright = "the mbjax developers"
version = release = mbjax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["results/*"]  # tables that results.md includes
html_theme = "furo"
html_title = "mbjax"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]

myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an attribute that a class documents is also a field of it: one description is enough
default_role = "code"  # docstrings write `code` with single backticks


def keep_indented_blocks(app, what, name, obj, options, lines):
    """Shows the indented blocks of a module's docstring, commands and formulas, as they stand."""
    if what != "module":
        return
    marked, inside = [], False
    for line in lines:
        if line.startswith("    ") and not inside:
            marked += ["::", ""]
        if line:
            inside = line.startswith("    ")
        marked.append(line)
    lines[:] = marked


def keep_intervals_on_one_line(app, doctree):
    """No line break within `0.8432 ± 0.0094` or `2.27 [-4.60, 9.49]` in tables: columns are narrow on a phone."""
    for cell in doctree.findall(nodes.entry):
        for text in list(cell.findall(nodes.Text)):
            joined = re.sub(r" (?=±|\[)|(?<=±) |(?<=,) (?=[-+\d.]+\])", "\N{NO-BREAK SPACE}", text)
            text.parent.replace(text, nodes.Text(joined))


def setup(app):
    app.connect("doctree-read", keep_intervals_on_one_line)
    app.connect("autodoc-process-docstring", keep_indented_blocks)
