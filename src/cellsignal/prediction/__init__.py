"""From checkpoints to submissions: predict every site and view, merge, post-process, write."""
