"""Tables in, pictures and pages out: matplotlib and Jinja2 alone."""
