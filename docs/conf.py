"""Documentation: ``make docs``, then open ``build/docs/index.html``."""

import os
import subprocess
import sys

from docutils.nodes import literal_block
from docutils.parsers.rst import Directive

project = "vsm_fast"
author = "the vsm_fast maintainers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "vsm_fast"
html_copy_source = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "none"  # docstrings give shapes and dtypes, which annotations cannot
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # np.object_ would be read as a link
napoleon_use_ivar = True  # a dataclass documents its fields itself
napoleon_custom_sections = ["Source"]


class CommandHelp(Directive):
    """The ``--help`` text of a command, such as ``vsm-fast score``."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self):
        """Return the text as a literal block."""
        _, *words = self.arguments[0].split()
        text = subprocess.run(
            [sys.executable, "-m", "vsm_fast", *words, "--help"],
            env={**os.environ, "COLUMNS": "100"}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        return [literal_block(text, text, language="text")]


def setup(app):
    """Register the directive ``command-help``."""
    app.add_directive("command-help", CommandHelp)
