"""`devices`: lists the devices that training would use."""

from keras_dp_retrieval import distribution

HELP = "list the devices that training would use"

TOGETHER = True


def add_arguments(parser):
    """This command has none of its own."""


def run(args) -> int:
    distribution.require_jax("`devices`")
    names = distribution.device_names()
    print(f"{len(names)} device(s): {', '.join(names)}")
    return 0
