"""Rock tokens: from rollouts to scored token types (notebooks 02 and 03)."""

import sys

from rockstudy.callable_rooms import CallableRoom

sys.modules[__name__].__class__ = CallableRoom
