"""Sphinx's settings. What depends on the pages comes from site.json, which the build writes."""
import json
import sys
from os import environ
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
SITE = json.loads(Path(environ["SITE_JSON"]).read_text(encoding="utf-8"))

project = SITE["title"]
html_title = SITE["title"]
author = "litevae_diffae developers"
html_show_copyright = False
extensions = ["myst_nb", "sphinx_copybutton", "website.extension"]
exclude_patterns = ["site.json"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline", "attrs_block",
                          "deflist"]
myst_heading_anchors = 6
myst_heading_slug_func = "website.build.heading_anchor"
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]

html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "navbar_start": ["site-title"],
    "navbar_center": [],
    "navbar_end": ["site-links", "theme-switcher"],
    "navbar_persistent": ["search-button"],
    "article_header_start": ["breadcrumbs"],
    "article_header_end": ["page-buttons"],
    "secondary_sidebar_items": ["page-toc"],
    "primary_sidebar_end": [],
    "footer_start": ["site-foot"],
    "footer_end": [],
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_context = {"default_mode": "auto"}
html_sidebars = {"**": ["site-nav"]}
html_static_path = [str(HERE / "static")]
templates_path = [str(HERE / "templates")]
html_css_files = ["site.css"]
html_favicon = str(HERE / "static" / "favicon.svg")
html_copy_source = False
html_show_sourcelink = False
html_use_index = False
mathjax_path = "mathjax/tex-chtml.js"
copybutton_exclude = ".linenos, .gp"
site_pages = SITE["pages"]
site_repo = SITE["repo"]
