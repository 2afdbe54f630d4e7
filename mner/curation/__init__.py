"""Labels looked at again: where annotators agree, and what to do about it."""
