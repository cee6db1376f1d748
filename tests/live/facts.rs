//! What the tool believes of Celery and kombu, held against the real libraries.
