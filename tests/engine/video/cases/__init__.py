"""The inputs that people bring and that were once got wrong, one test for each, and what is right for it.

media.py       makes the inputs with the ffmpeg program
measures.py    flash against beep, combing, PSNR
child.py       runs a job in a process of its own, for what can hang or kill
"""
