"""All that uses Ray: independent jobs, and ``infer``, on the machines of a cluster. It needs the extra ``cluster``."""
