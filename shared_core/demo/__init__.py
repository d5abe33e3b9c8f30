"""`iccache demo`: watch a small model take over what a large one used to answer."""
