"""The helper package that the chapters of Stateful TFF share.

One module per chapter, exported from the chapter's notebook, and six leaves written here:
`setup` (start and clean end of a session), `environment` and `bridge` (TFF where the reader's
Python cannot hold it), `plots` (the look of the figures), `recorded` (results of long runs) and
`exercises` (answers checked in words). Importing the package quiets start-up messages,
gives each TensorFlow operation one thread, and makes sure that no worker process of TFF
outlives the Python process.
"""

__version__ = "0.1.0"

from . import setup

setup.quiet_imports()
setup.one_thread_per_operation()
setup.end_workers_with_this_process()
