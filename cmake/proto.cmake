# kluis_proto(NAME files...): protobuf-c code in the build tree, as a static library.
find_program(PROTOC_C protoc-c REQUIRED)
function(kluis_proto name)
  set(sources)
  foreach(file ${ARGN})
    get_filename_component(base ${file} NAME_WE)
    set(out ${CMAKE_CURRENT_BINARY_DIR}/${base}.pb-c)
    add_custom_command(
      OUTPUT ${out}.c ${out}.h
      COMMAND ${PROTOC_C} --c_out=${CMAKE_CURRENT_BINARY_DIR} -I ${CMAKE_CURRENT_SOURCE_DIR}
              ${CMAKE_CURRENT_SOURCE_DIR}/${file}
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
    list(APPEND sources ${out}.c ${out}.h)
  endforeach()
  add_library(${name} STATIC ${sources})
  target_include_directories(${name} SYSTEM PUBLIC ${CMAKE_CURRENT_BINARY_DIR})
  target_link_libraries(${name} PUBLIC PkgConfig::PROTOBUF_C)
  if(KLUIS_SANITIZE)
    target_compile_options(${name} PRIVATE -fsanitize=${KLUIS_SANITIZE})
    target_link_options(${name} PUBLIC -fsanitize=${KLUIS_SANITIZE})
  endif()
endfunction()
