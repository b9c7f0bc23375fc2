# Fails if an object of a kernel set defines a symbol the linker may share with other files (weak, or
# unique): a processor without that instruction set could then run it. Data (kNf4Table) is harmless.
execute_process(COMMAND nm -C ${OBJECTS} OUTPUT_VARIABLE symbols RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "nm failed on ${OBJECTS}")
endif()
string(REGEX MATCHALL "[0-9a-f]+ [WV] [^\n]*" shared "${symbols}")
if(shared)
  message(FATAL_ERROR "a kernel set's object shares code with other files: ${shared}")
endif()
