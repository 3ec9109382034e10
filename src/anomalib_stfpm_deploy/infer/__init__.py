"""``anomalib-stfpm infer``: start with ``verb.py``, which has the arguments."""
