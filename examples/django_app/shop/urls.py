from django.urls import path

from . import views

urlpatterns = [path("suggest/<str:word>/", views.suggest), path("health/", views.health)]
