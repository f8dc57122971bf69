"""What every command needs to start, stop and resume: errors, files, run folders, seeds, processes."""
