"""A Django site that leaves hard work to child processes.

Start it in this folder, for the child is started with ``python -m shop.speller``, and ask it:

    cd examples/django_app
    python manage.py runserver
    curl http://127.0.0.1:8000/suggest/tabel/

In production, with any kind of workers, with or without --preload:

    gunicorn --chdir examples/django_app --workers 2 --threads 4 shop.wsgi
    uwsgi --http-socket :8000 --chdir examples/django_app --master --processes 2 \
        --module shop.wsgi

``shop/views.py`` has the pool, ``shop/speller.py`` is the child, ``shop/messages.py`` is what
they have in common.
"""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    execute_from_command_line(sys.argv)
