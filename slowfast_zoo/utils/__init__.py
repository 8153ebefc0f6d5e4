"""What rooms of every floor use: files, checks, processes, class labels, the version."""
