# What `cmake --install` lays down: headers, library, package files for CMake and pkg-config, notices.
include(CMakePackageConfigHelpers)

install(TARGETS calotype EXPORT calotype-targets)
install(DIRECTORY include/calotype DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(FILES ${PROJECT_BINARY_DIR}/include/calotype/version.h
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/calotype)
install(FILES LICENSE THIRD_PARTY_NOTICES.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/calotype)
install(EXPORT calotype-targets NAMESPACE calotype:: DESTINATION ${package_dir})
configure_package_config_file(cmake/calotype-config.cmake.in ${PROJECT_BINARY_DIR}/calotype-config.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/calotype-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/calotype-config.cmake ${PROJECT_BINARY_DIR}/calotype-config-version.cmake
  DESTINATION ${package_dir})

if(BUILD_SHARED_LIBS)
  set(requires_field Requires.private)
else()
  set(requires_field Requires)
endif()
configure_file(cmake/calotype.pc.in ${PROJECT_BINARY_DIR}/calotype.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/calotype.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
