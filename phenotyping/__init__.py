"""What medicine knows of a face: conditions, HPO terms, and the parameters that they move."""
