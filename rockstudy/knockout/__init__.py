"""What a student answers when it may not write a token (notebooks 05 and 06)."""

import sys

from rockstudy.callable_rooms import CallableRoom

sys.modules[__name__].__class__ = CallableRoom
