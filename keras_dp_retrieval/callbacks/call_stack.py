"""Whether a `fit` is still running: no hook is called when it breaks off."""

import sys
import types


def calling_code(name: str) -> types.CodeType | None:
    """The code object of the nearest caller called `name`, or None."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return frame.f_code if frame else None


def is_running(code: types.CodeType | None, frame) -> bool:
    """Whether a stack is inside `code`; True if there is no `code`.

    Args:
        code: What `calling_code` returned.
        frame: The innermost frame of the stack, or None of an ended thread.
    """
    while code is not None and frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None
