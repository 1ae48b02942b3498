// text/jinja
