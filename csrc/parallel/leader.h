// SPDX-License-Identifier: BSD-3-Clause
// Which process has a row's largest logit, and where it lies, as one integer that a maximum over
// the processes finds: of several that are largest the first one leads, of NaN any does.
#pragma once

#include <ATen/core/Tensor.h>

namespace fused_ce::parallel {

// `logit`: doubles that are numbers of float; `place`: a class, as a double: no two processes have
// the same. int64.
at::Tensor leader_key(const at::Tensor& logit, const at::Tensor& place);

at::Tensor logit_of(const at::Tensor& key);
at::Tensor place_of(const at::Tensor& key);

}  // namespace fused_ce::parallel
