# The package quoit: its two modules, and what a later build of quoit._c10d needs.
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
find_package(pybind11 CONFIG REQUIRED)

file(GLOB core_sources CONFIGURE_DEPENDS csrc/python/*.cpp)
pybind11_add_module(_core MODULE NO_EXTRAS ${core_sources})
target_link_libraries(_core PRIVATE quoit)
set_target_properties(_core PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${package_dir})
set_target_properties(quoit _core PROPERTIES INSTALL_RPATH "$ORIGIN" BUILD_WITH_INSTALL_RPATH ON)
install(TARGETS quoit _core LIBRARY DESTINATION quoit)
install(DIRECTORY csrc/ DESTINATION quoit/_src FILES_MATCHING PATTERN "*.h")
install(DIRECTORY csrc/torch DESTINATION quoit/_src FILES_MATCHING PATTERN "*.cpp")

# quoit._c10d has one builder, python/quoit/_build.py, here and on a user's machine.
set(builder ${CMAKE_CURRENT_SOURCE_DIR}/python/quoit/_build.py)
execute_process(COMMAND ${Python_EXECUTABLE} ${builder} stamp
                OUTPUT_VARIABLE torch_stamp ERROR_VARIABLE why_not RESULT_VARIABLE no_torch
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_STRIP_TRAILING_WHITESPACE)
if(no_torch)
  message(STATUS "quoit._c10d is left to be built on first use: ${why_not}")
else()
  message(STATUS "quoit._c10d is built for ${torch_stamp}")
  string(JSON suffix GET "${torch_stamp}" python)
  # Rewritten only when it differs, so that another torch rebuilds the module and the same does not.
  set(stamp_file ${CMAKE_CURRENT_BINARY_DIR}/torch.json)
  file(CONFIGURE OUTPUT ${stamp_file} CONTENT "${torch_stamp}" @ONLY)
  file(GLOB_RECURSE c10d_inputs CONFIGURE_DEPENDS csrc/*.h csrc/torch/*.cpp)
  set(c10d_files ${package_dir}/_c10d${suffix} ${package_dir}/_c10d.json)
  add_custom_command(
    OUTPUT ${c10d_files}
    COMMAND ${CMAKE_COMMAND} -E env CXX=${CMAKE_CXX_COMPILER} ${Python_EXECUTABLE} ${builder}
            build ${package_dir} ${CMAKE_CURRENT_SOURCE_DIR}/csrc/torch
            ${CMAKE_CURRENT_SOURCE_DIR}/csrc $<TARGET_FILE:quoit>
    DEPENDS ${builder} ${stamp_file} ${c10d_inputs}
    COMMENT "Building quoit._c10d" VERBATIM)
  add_custom_target(c10d ALL DEPENDS ${c10d_files})
  install(FILES ${c10d_files} DESTINATION quoit)
endif()
