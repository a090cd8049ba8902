# How the project's own targets are compiled: warnings are errors, sanitizers on request.

add_library(calotype_options INTERFACE)
target_include_directories(calotype_options INTERFACE
  ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include ${PROJECT_BINARY_DIR}/include)
target_compile_options(calotype_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wconversion -Wshadow -Werror>
  # GCC 12 sees overlaps in std::string that are not there (GCC bug 105651).
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict>)
if(CALOTYPE_SANITIZE)
  target_compile_options(calotype_options INTERFACE
    -fsanitize=${CALOTYPE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  target_link_options(calotype_options INTERFACE -fsanitize=${CALOTYPE_SANITIZE})
endif()

# calotype_part(NAME SOURCES ... [LINK ...]): an object library calotype_NAME of src/NAME.
function(calotype_part name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LINK")
  foreach(source IN LISTS arg_SOURCES)
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${source})
      list(REMOVE_ITEM arg_SOURCES ${source})
    endif()
  endforeach()
  if(NOT arg_SOURCES)
    add_library(calotype_${name} INTERFACE)
    return()
  endif()
  add_library(calotype_${name} OBJECT ${arg_SOURCES})
  target_link_libraries(calotype_${name} PUBLIC calotype_options ${arg_LINK})
endfunction()

# calotype_test(NAME SOURCES ... [LINK ...]): a GoogleTest program, each of its tests known to CTest.
function(calotype_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LINK")
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE calotype_options calotype_test_support ${arg_LINK} GTest::gmock GTest::gtest_main)
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 600)
endfunction()
