"""`python -m keras_dp_retrieval`."""

import sys

from keras_dp_retrieval import cli

sys.exit(cli.main())
