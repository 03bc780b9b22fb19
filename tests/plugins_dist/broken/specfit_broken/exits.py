"""Is a script rather than a module."""

import sys

sys.exit("usage: exits.py FILE")
