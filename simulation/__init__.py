"""People, faces and photographs that a program draws, with their truth."""
