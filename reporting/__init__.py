"""What a report says of a face, and how far two reports agree."""
