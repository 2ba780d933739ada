"""Documentation: ``make docs``, then open ``build/docs/index.html``."""

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
