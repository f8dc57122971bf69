"""What people look at: sheets of pictures and self-contained HTML pages."""
