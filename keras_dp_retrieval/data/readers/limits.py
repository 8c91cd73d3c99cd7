"""How much a file may unpack to."""

# Interactions shrink to a third or a tenth. What grows more than this, beyond
# a size that does no harm, was made to fill the memory.
MOST_GROWTH = 200
HARMLESS_SIZE = 2**26
