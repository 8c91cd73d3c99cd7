"""What `mutmut run` needs to mutate Keras layers (CONTRIBUTING.md).

mutmut wraps the functions that it changes. Keras asks
`inspect.getfullargspec` for the arguments of a layer's `__init__`, which does
not look into wrappers: so they are given the signature of what they wrap.
"""

import functools
import inspect

from mutmut.mutation import trampoline


def keep_signatures():
    """Call it before the mutated package is imported."""
    wrap = trampoline.wrap_in_trampoline

    @functools.wraps(wrap)
    def keeping(mutants, is_classmethod=False):
        def decorate(function):
            wrapper = wrap(mutants, is_classmethod)(function)
            wrapper.__signature__ = inspect.signature(function)
            return wrapper

        return decorate

    trampoline.wrap_in_trampoline = keeping
