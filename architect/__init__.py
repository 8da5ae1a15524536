"""What the processes of Architect share; it never imports one of their rooms."""
