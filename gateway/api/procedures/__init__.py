"""The procedures of the API, one module for each noun; `catalog` knows them all."""
