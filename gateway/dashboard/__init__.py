"""The pages for people: rendered on the server, live by one stream a tab. They call the procedures of the API."""
