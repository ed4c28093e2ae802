"""Leaves out the scripts of sphinx-thebe, which Jupyter Book always loads.

The book has no live cells in the browser. The scripts would be declared twice, which is an
error in the browser's console.
"""


def drop_scripts(app, pagename, templatename, context, doctree) -> None:
    """Removes the scripts from the list that a page is made with."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in f"{script} {getattr(script, 'attributes', {}).get('body', '')}".lower()
    ]


def setup(app) -> dict:
    """Connects to the making of pages, after the extensions that add scripts."""
    app.connect("html-page-context", drop_scripts, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
