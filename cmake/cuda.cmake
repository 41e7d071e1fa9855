# The .cu files of libquoit, or the file that says that there are none. Adds to quoit_sources,
# and sets quoit_has_cuda.
set(QUOIT_CUDA AUTO CACHE STRING "Kernels for CUDA devices: ON, OFF, or AUTO, where nvcc works")
set_property(CACHE QUOIT_CUDA PROPERTY STRINGS AUTO ON OFF)
set(no_cuda csrc/kernels/no_cuda.cpp)
list(FILTER quoit_sources EXCLUDE REGEX "/kernels/no_cuda\\.cpp$")

set(no_nvcc "")  # why the kernels cannot be built
if(NOT QUOIT_CUDA)
  set(no_nvcc "QUOIT_CUDA=${QUOIT_CUDA}")
elseif(QUOIT_CUDA STREQUAL "AUTO" AND sanitizers)
  set(no_nvcc "sanitizers look at the host only")
else()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(no_nvcc "no nvcc works here")
  else()
    set(CMAKE_CUDA_ARCHITECTURES OFF)  # see cuda_options
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
      set(no_nvcc "${CMAKE_CUDA_COMPILER} is of CUDA ${CMAKE_CUDA_COMPILER_VERSION}")
    endif()
  endif()
  if(no_nvcc AND NOT QUOIT_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "QUOIT_CUDA=${QUOIT_CUDA}, but ${no_nvcc}: install the CUDA toolkit, 12.4 or "
                        "later, and put its nvcc on PATH, or set CUDACXX to it.")
  endif()
endif()

if(no_nvcc)
  message(STATUS "CUDA: off: ${no_nvcc}")
  list(APPEND quoit_sources ${no_cuda})
  set(quoit_has_cuda OFF)
  return()
endif()

set(quoit_has_cuda ON)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/kernels/*.cu)
list(APPEND quoit_sources ${cuda_sources})
# From one PTX, so that it is made once: nothing here needs what only the later one has.
set(cuda_options "--generate-code=arch=compute_80,code=[sm_80,sm_90,compute_80]")
# The bits of the CPU: no fused multiply-add, subnormals, divisions as IEEE has them.
list(APPEND cuda_options -fmad=false -ftz=false -prec-div=true -prec-sqrt=true)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  list(APPEND cuda_options --compress-mode=size)  # a quarter of the size
endif()
if(QUOIT_WERROR)
  list(APPEND cuda_options "SHELL:-Werror all-warnings" -Xcompiler=-Wall,-Wextra,-Werror)
endif()
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:${cuda_options}>")
set_source_files_properties(csrc/kernels/cuda_device.cu PROPERTIES COMPILE_DEFINITIONS
                            "QUOIT_CUDA_ARCHITECTURES=\"sm_80, sm_90, PTX\"")
message(STATUS "CUDA: kernels for sm_80, sm_90 and PTX, by nvcc ${CMAKE_CUDA_COMPILER_VERSION} "
               "(QUOIT_CUDA=${QUOIT_CUDA})")
