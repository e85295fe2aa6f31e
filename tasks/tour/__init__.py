"""A walk through the course, a stop a module: each runs code of this repository, in under a minute, and shows what comes out.

    stops      which stops there are, in the order of the course
    sights     what a stop shows: words, code that is run, facts, pictures
    ground     what stops stand on: a data set and a small GPT, made once
    page       what was shown, as a page

A stop is a generator of sights; the terminal (`flows/tour.py`) and the page are two ways to look at the same.
"""
