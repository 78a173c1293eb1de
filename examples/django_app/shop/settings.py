"""As little as Django needs; take your own."""

SECRET_KEY = "an example's, so it is none"
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
