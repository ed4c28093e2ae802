"""Prints how long the last execution of each chapter took, as the build's cache records it.

Usage: python tools/print_times.py
"""

from pathlib import Path

from jupyter_cache import get_cache

CACHE = Path(__file__).resolve().parents[1] / "_build" / ".jupyter_cache"

if __name__ == "__main__":
    latest = {}
    for record in sorted(get_cache(CACHE).list_cache_records(), key=lambda record: record.created):
        latest[Path(record.uri).stem] = record.data["execution_seconds"]
    for chapter, seconds in sorted(latest.items()):
        print(f"{chapter:32}{seconds:6.1f} s")
