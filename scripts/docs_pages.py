"""A hook of mkdocs: files outside docs/ that belong to the site, and the links to them."""

from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"data/README.md": "rows.md", "CHANGELOG.md": "changelog.md", "DECISIONS.md": "decisions.md"}
"""A file of the repository to its page on the site."""


def on_files(files, config):
    """Add the pages."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, **_):
    """Point links at the pages: in the repository they lead to the files."""
    for source, page in PAGES.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    return markdown
