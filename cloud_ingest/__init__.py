"""The cloud side: ingest, store, settle, API and page."""
