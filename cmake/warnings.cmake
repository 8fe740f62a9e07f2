# kluis_library(NAME sources...) and kluis_program(NAME sources...): strict warnings as errors, the
# hardening flags of release builds, sanitizers and coverage as chosen by the preset.
# -Wcast-qual is for gcc only: clang also looks into the macros of system headers (the initialisers of
# protobuf-c, the controls of OpenSSL), which cast away const. Its -Wstring-conversion takes
# assert(!"why") for a mistake.
set(KLUIS_WARNINGS
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wvla -Wformat=2 -Wundef -Werror
    $<$<C_COMPILER_ID:GNU>:-Wcast-qual> $<$<C_COMPILER_ID:Clang>:-Wno-string-conversion>
    $<$<COMPILE_LANGUAGE:C>:-Wmissing-prototypes> $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes>)

function(kluis_flags target)
  target_compile_options(${target} PRIVATE ${KLUIS_WARNINGS} -fstack-protector-strong
                                           -fno-omit-frame-pointer)
  target_compile_definitions(${target} PRIVATE _GNU_SOURCE KLUIS_VERSION="${PROJECT_VERSION}")
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR})
  if(KLUIS_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${KLUIS_SANITIZE})
    target_link_options(${target} PUBLIC -fsanitize=${KLUIS_SANITIZE})
  endif()
  if(KLUIS_FUZZ)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
    target_link_options(${target} PUBLIC -fsanitize=fuzzer-no-link)
  endif()
  if(KLUIS_COVERAGE)
    target_compile_options(${target} PRIVATE --coverage)
    target_link_options(${target} PUBLIC --coverage)
  endif()
  if(CMAKE_BUILD_TYPE STREQUAL "Release" AND NOT KLUIS_SANITIZE)
    target_compile_definitions(${target} PRIVATE _FORTIFY_SOURCE=2)
  endif()
endfunction()

function(kluis_library name)
  add_library(${name} STATIC ${ARGN})
  kluis_flags(${name})
endfunction()

function(kluis_program name)
  add_executable(${name} ${ARGN})
  kluis_flags(${name})
endfunction()
