"""Checks an answer to an exercise and says in words what is wrong with it.

Knows nothing of the exercises, nor of any other part of the package.
"""

from collections.abc import Callable


def check(exercise: str, answer, *steps: tuple[Callable[[object], bool], str]) -> bool:
    """Prints the first thing that is wrong with an answer, or that it is right.

    The steps run in order and stop at the first that fails, so a later one may rely on an
    earlier one. An unanswered exercise never stops a notebook that runs from top to bottom.

    Args:
        exercise: the name to print, such as "Exercise 4.1".
        answer: the reader's answer; `None` or `...` means not answered yet.
        *steps: pairs of a test of the answer and the sentence to print when it fails.

    Returns:
        Whether the answer is right.
    """
    if answer is None or answer is ...:
        print(f"{exercise}: not answered yet.")
        return False
    for holds, hint in steps:
        try:
            passed = bool(holds(answer))
        except Exception as error:
            print(f"{exercise}: {hint} (The check stopped with: {error})")
            return False
        if not passed:
            print(f"{exercise}: {hint}")
            return False
    print(f"{exercise}: correct.")
    return True
