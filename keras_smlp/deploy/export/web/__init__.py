"""The export that is a web page: a photo is classified in the browser."""
